"""Wrappers that show text as numbers: tokens, counts of words, bytes."""
