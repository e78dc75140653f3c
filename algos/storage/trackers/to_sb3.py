"""Logs through a logger of Stable-Baselines3, in all of its formats: stdout, log, json, csv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from textenv.algos.storage.trackers.tracker import Row, Run


class SB3Logger:
    """What `LogTo` takes to log through a logger of Stable-Baselines3.

    Metrics have the names, and steps the counts, that its own trainings log. Tables, of which its
    formats know nothing, are left out.

    Args:
        logger: a `stable_baselines3.common.logger.Logger`, as ``configure(folder, formats)`` makes.

    Example:
        >>> from stable_baselines3.common.logger import configure
        >>> log = LogTo([SB3Logger(configure("runs/x", ["stdout", "json"]))], "runs/x")
    """

    def __init__(self, logger: Any):
        self._logger = logger

    def __call__(self, run: Run) -> SB3Logger:
        """Begin with a run, or go on with it."""
        return self

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Write the metrics of a step in each format."""
        for name, value in metrics.items():
            self._logger.record(name, value)
        self._logger.dump(step)

    def table(self, name: str, rows: Sequence[Row], step: int) -> None:
        """Write nothing."""

    def close(self, failed: bool) -> None:
        """Leave the logger open, which its owner closes."""
