"""Log-probabilities of completions under a language model, with gradients, for training."""
