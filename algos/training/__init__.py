"""One policy-gradient update of a language model."""
