"""The loop of trainers on given data: so many steps, with checkpoints to go on from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from textenv.algos.offline.data import check_data
from textenv.algos.storage.checkpoints.schedule import CheckpointSchedule
from textenv.algos.storage.checkpoints.state import State
from textenv.algos.trainers.callbacks import Callback
from textenv.algos.trainers.resuming import Resumable


class TrainsOnData(Resumable):
    """A trainer that makes a number of steps, or of passes, over data that it is given.

    Attributes:
        history: the metrics of each step so far.
        checkpoints: writes the checkpoints; the newest is its ``last``.
    """

    _data_kind = "rollouts"

    def _prepare(
        self,
        out: str | Path | None,
        on_step: Callable[[dict[str, float]], None] | None,
        callbacks: Sequence[Callback] | Callback,
    ) -> None:
        """Prepare the loop; called when ``config`` is set and the length is known."""
        steps, minutes = self.config.save_steps, self.config.save_minutes
        self.checkpoints = CheckpointSchedule(out, self._settings(), steps, minutes)
        self._call(on_step, callbacks)
        self.history = []
        self._end = self._length

    def _take_steps(self, more: int) -> list[dict[str, float]]:
        """Take the steps that are left, or so many more if none is."""
        self.checkpoints.begin()
        if self.has_ended:
            self._end += more
            self._begin_again()
        try:
            while not (self.has_ended or self._stop):
                metrics = self._take_step()
                self.history.append(metrics)
                if self._on_step is not None:
                    self._on_step(metrics)
                self._after_step(metrics)
                self.checkpoints.after_step(len(self.history), self.state)
                self.checkpoints.hold(len(self.history), self.state)
                self._after_checkpoint(self.checkpoints.last)
        finally:
            self._stop = False
        self.checkpoints.after_step(len(self.history), self.state, ends=True)
        return self._finish()

    @property
    def has_ended(self) -> bool:
        """Whether the training has made all its steps; `train` begins another."""
        return len(self.history) >= self._end

    def _counts(self) -> dict[str, Any]:
        return {
            "left": self._end - len(self.history),
            "length": self._length,
            "history": list(self.history),
            "data": self._hash,
        }

    def _set_counts(self, state: State) -> None:
        check_data(self._data_kind, state.value("data"), self._hash)
        self.history[:] = state.value("history")
        more = self._length - state.value("length")  # if that was allowed to change
        self._end = len(self.history) + max(0, state.value("left") + more)

    @cached_property
    def _hash(self) -> str:
        return self._data_hash()

    def _begin_again(self) -> None:
        """Prepare for another training after one has ended."""

    @property
    @abstractmethod
    def _length(self) -> int:
        """How many steps the whole training has."""

    @abstractmethod
    def _take_step(self) -> dict[str, float]:
        """Take a step; returns its metrics."""

    @abstractmethod
    def _data_hash(self) -> str:
        """A hash of what is trained on."""
