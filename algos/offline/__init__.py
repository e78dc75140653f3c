"""Offline training: learning from rollouts that were saved before, without collecting new ones."""
