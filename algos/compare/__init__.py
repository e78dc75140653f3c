"""Agents side by side: one loop, one evaluation, the statistics of few runs, a report."""
