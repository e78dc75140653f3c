"""Running mean and variance of rows (Chan, Golub and LeVeque 1983, equation 2.1)."""

from __future__ import annotations

import numpy as np

from textenv.algos.storage.checkpoints.state import State


class RunningStats:
    """Mean and variance of all rows added so far, for each column, in float64.

    Args:
        size: the number of columns.
    """

    def __init__(self, size: int):
        self.count = 0
        self.mean = np.zeros(size)
        self.var = np.ones(size)

    def update(self, rows: np.ndarray) -> None:
        """Add rows (N, size)."""
        rows = np.asarray(rows, np.float64)
        count, added = self.count, len(rows)
        if not added:
            return
        mean, var, total = rows.mean(axis=0), rows.var(axis=0), count + added
        delta = mean - self.mean
        squares = self.var * count + var * added + delta**2 * count * added / total
        self.mean = self.mean + delta * added / total
        self.var = squares / total
        self.count = total

    def state(self) -> State:
        """The statistics so far."""
        return State({"mean": self.mean, "var": self.var}, {"count": self.count})

    def load_state(self, state: State) -> None:
        """Go on from the statistics that `state` gave."""
        self.mean, self.var = state.array("mean"), state.array("var")
        self.count = int(state.value("count"))
