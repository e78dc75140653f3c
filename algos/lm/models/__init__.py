"""Loading, saving and adapting language models."""
