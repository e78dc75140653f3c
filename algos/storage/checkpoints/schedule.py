"""Decides when a training writes a checkpoint, and writes it while the training goes on."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from textenv.algos.storage.checkpoints.state import State
from textenv.algos.storage.checkpoints.store import (
    CHECKPOINTS,
    checkpoints,
    step_of,
    write_checkpoint,
)
from textenv.errors import ConfigError

KEEP = 2
"""How many of the newest checkpoints stay, beside that of the best evaluation."""

HELD_SHARE = 0.01
"""The share of the time that may be spent on states that are only held in memory."""


class CheckpointSchedule:
    """Writes the checkpoints of a training: every so many steps or minutes, and at its end.

    The state is taken at once, without a copy of its arrays. A thread writes it to the disk while
    the training goes on; the arrays stay in memory until it has done so. There is never more than
    one that is being written.

    Args:
        out: the folder of the run, in which `CHECKPOINTS` will have them; None writes none.
        config: the settings of the training, as values of JSON, which are written beside the state.
        save_steps: write one every so many steps; 0: not by steps.
        save_minutes: write one every so many minutes; 0: not by time.

    Attributes:
        config: as given.
        last: the newest checkpoint that was written or resumed from; None if there is none.
    """

    def __init__(
        self,
        out: str | Path | None,
        config: Mapping[str, Any],
        save_steps: int = 0,
        save_minutes: float = 0,
    ):
        self._folder = None if out is None else Path(out) / CHECKPOINTS
        self.config = config
        self._save_steps, self._save_minutes = save_steps, save_minutes
        self.last: Path | None = None
        self._step = 0  # the last one that was asked about
        self._saved: int | None = None  # the step of the newest checkpoint in the folder
        self._began = time.monotonic()
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[Path] | None = None
        self._held: tuple[int, State, int | None] | None = None  # what the newest step left
        self._hold_from = 0.0  # when it may be replaced, by the performance counter
        self._bytes = 0

    def begin(self) -> None:
        """Let a training begin or go on.

        Raises:
            ConfigError: if the folder has checkpoints of another training.
        """
        if self._folder is not None and self._saved is None and checkpoints(self._folder):
            raise ConfigError(
                f"{self._folder} has checkpoints of an earlier training: go on from them with "
                f"resume({str(self._folder.parent)!r}), or choose another folder"
            )
        self._began = time.monotonic()

    def resumed(self, path: Path) -> None:
        """Take note that the training goes on from a checkpoint.

        If it is one of this folder, later ones are removed when the next one is written, since the
        training makes their steps again.
        """
        self.last, self._step = path, step_of(path)
        if self._folder is not None and path.resolve().parent == self._folder.resolve():
            self._saved = self._step

    def after_step(
        self,
        step: int,
        state: Callable[[], State],
        best_step: int | None = None,
        ends: bool = False,
    ) -> None:
        """Write a checkpoint, if it is time to.

        Args:
            step: how many steps there have been.
            state: gives the state of the training.
            best_step: the step of the best evaluation, whose checkpoint is kept.
            ends: whether the training ends here; then it always is, if a step was made.

        Raises:
            StorageError, DataError: if the one before could not be written; see `write_checkpoint`.
        """
        if self._folder is None:
            return
        if self._writing is not None and self._writing.done():
            self.wait()
        every = self._save_steps
        due = bool(every) and step // every > self._step // every
        minutes = (time.monotonic() - self._began) / 60
        due = due or 0 < self._save_minutes <= minutes
        self._step = step
        if (due or ends) and step and step != self._saved:
            self._held = step, state(), best_step
            self._write(self._folder, *self._held)

    def hold(self, step: int, state: Callable[[], State], best_step: int | None = None) -> None:
        """Hold the state after a step in memory, for `save_last`; it replaces the one before.

        Taking states costs no more than `HELD_SHARE` of the time: where steps take milliseconds,
        some of them are left out.

        Args:
            step: how many steps there have been.
            state: gives the state of the training.
            best_step: the step of the best evaluation, whose checkpoint is kept.
        """
        if self._folder is None or (self._held is not None and self._held[0] == step):
            return
        began = time.perf_counter()
        if began < self._hold_from:
            return
        self._held = step, state(), best_step
        ended = time.perf_counter()
        self._hold_from = ended + (ended - began) / HELD_SHARE

    def save_last(self, out: Path | None = None) -> Path | None:
        """Write the state that is held, if that was not done yet.

        By this a training that ends in the middle of a step loses that step alone, or those of the
        last tenths of a second.

        Args:
            out: a folder to write it to in place of the run's own, which cannot be written to.

        Returns:
            The newest checkpoint; None if there is none.

        Raises:
            StorageError, DataError: if it cannot be written; see `write_checkpoint`.
        """
        if out is None:
            self.wait()
        held = self._held
        if held is not None and (
            out is not None or self.last is None or step_of(self.last) < held[0]
        ):
            folder = self._folder if out is None else out / CHECKPOINTS
            assert folder is not None  # else nothing is held
            step, state, best_step = held
            self.last = write_checkpoint(folder, step, state, self.config, KEEP, best_step)
            self._saved = step
        return self.last

    def make_room(self, free: float) -> None:
        """If memory is short, wait for what is being written, and give up what the last step left.

        Either of them keeps arrays in memory that the next update will replace.

        Args:
            free: bytes of memory that are free; an update is to follow, and it needs some of them.
        """
        if self._held is not None and _bytes(self._held[1]) > free / 2:
            self._held = None
        if self._writing is not None and self._bytes > free / 2:
            self.wait()

    def wait(self) -> None:
        """Wait until everything is written.

        Raises:
            StorageError, DataError: if it could not be written; see `write_checkpoint`.
        """
        writing = self._writing
        if writing is not None:
            try:
                self.last = writing.result()
            finally:
                if writing.done():  # not if the waiting was interrupted
                    self._writing = None

    def _write(self, folder: Path, step: int, state: State, best_step: int | None) -> None:
        self.wait()
        if self._saved is not None:
            _remove_later(folder, self._saved)
        self._bytes = _bytes(state)
        self._writing = self._thread.submit(
            write_checkpoint, folder, step, state, self.config, KEEP, best_step
        )
        self._saved, self._began = step, time.monotonic()


def _bytes(state: State) -> int:
    return sum(array.nbytes for array in state.arrays.values())


def _remove_later(folder: Path, step: int) -> None:
    """Remove the checkpoints of later steps."""
    for path in checkpoints(folder):
        if step_of(path) > step:
            hidden = path.with_name(f".{path.name}.old")
            os.rename(path, hidden)
            shutil.rmtree(hidden)
