"""Checkpoints of a training: all that it needs to go on as if it had never stopped."""
