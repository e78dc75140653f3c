"""Collects rollouts, in this process or in worker processes, and makes a step's metrics."""
