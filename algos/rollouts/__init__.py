"""Collecting rollouts, in this process and in worker processes."""
