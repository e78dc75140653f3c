"""Updates a language model by policy gradients: batch, loss, gradient, optimizer step."""
