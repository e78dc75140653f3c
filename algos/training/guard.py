"""Lets a training go on after a step that has no finite gradient, and ends it after several."""

from __future__ import annotations

from collections.abc import Sequence

from textenv.algos.episodes.trajectory import Buffer, Trajectory
from textenv.errors import TextEnvError

MOST_SKIPPED = 5
"""So many steps in a row may be skipped; the last of them ends the training."""

SKIPPED = "skipped_steps"
"""The metric that counts the optimizer steps that were not taken; absent if all were."""


class NotFiniteError(TextEnvError, FloatingPointError):
    """The loss or the gradient of several steps in a row was not finite.

    Args:
        message: what was not finite, and what to do.
        batch: what the last of the steps was to train on.

    Attributes:
        batch: as given.
    """

    def __init__(self, message: str, batch: Buffer):
        super().__init__(message)
        self.batch = batch


class StepGuard:
    """Counts the steps in a row that were not taken, since their gradient was not finite.

    One such step may be the fault of one batch: it is skipped, and the weights stay as they are.
    Several in a row mean that the model or the settings are broken.
    """

    def __init__(self) -> None:
        self._in_a_row = 0

    def taken(self) -> None:
        """Take note of a step that was taken."""
        self._in_a_row = 0

    def skipped(self, error: FloatingPointError, batch: Sequence[Trajectory]) -> None:
        """Take note of a step that was not taken.

        Args:
            error: says what was not finite.
            batch: what the step was to train on.

        Raises:
            NotFiniteError: if it is the last of `MOST_SKIPPED` in a row.
        """
        self._in_a_row += 1
        if self._in_a_row == MOST_SKIPPED:
            self._in_a_row = 0
            raise NotFiniteError(
                f"{MOST_SKIPPED} steps in a row were skipped: {error}", Buffer(list(batch))
            ) from error
