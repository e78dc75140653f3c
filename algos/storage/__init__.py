"""Rollouts as files: formats, and where a rollout comes from."""
