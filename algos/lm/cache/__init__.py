"""Keys and values of prompts and of the completions that continue them."""
