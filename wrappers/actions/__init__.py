"""Wrappers of actions: choices among answers, tokens, masks, and choices that count from 0."""
