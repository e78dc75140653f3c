"""Keys and values of prompts and of their continuations."""
