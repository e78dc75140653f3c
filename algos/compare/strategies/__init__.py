"""Rollout strategies compared at equal generated tokens."""
