"""Compares agents: the same loop and evaluation for all, statistics for few runs, a report."""
