"""Sampling completions from a language model."""
