"""Sampling completions from a language model: the policy, and the engine under it."""
