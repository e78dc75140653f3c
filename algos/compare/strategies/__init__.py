"""Compares rollout strategies of GRPO at equal numbers of generated tokens."""
