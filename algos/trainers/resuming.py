"""What trainers share that write checkpoints and go on from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from textenv.algos.config import to_table
from textenv.algos.runtime.ranks import Ranks
from textenv.algos.storage.checkpoints.randomness import load_random_state, random_state
from textenv.algos.storage.checkpoints.resuming import (
    check_unchanged,
    loading,
    warn_of_other_machine,
)
from textenv.algos.storage.checkpoints.schedule import CheckpointSchedule
from textenv.algos.storage.checkpoints.state import State
from textenv.algos.storage.checkpoints.store import Checkpoint, Manifest, newest, read_checkpoint
from textenv.algos.trainers.callbacks import CallsBack


class HasState(Protocol):
    """An object with a memory."""

    def state(self) -> State:
        """What it remembers."""

    def load_state(self, state: State) -> None:
        """Go on from what `state` gave."""


class Resumable(CallsBack, ABC):
    """A trainer that can be stopped, and that goes on from a checkpoint.

    A class that derives from it sets the attributes, says in `_parts` what has a state of its own,
    and gives and takes the rest in `_counts` and `_set_counts`.

    Attributes:
        algorithm: the name of the algorithm, which a checkpoint must agree with.
        config: the settings, in a dataclass.
        checkpoints: writes the checkpoints.
        history: the metrics of each step so far.
    """

    algorithm: str
    config: Any
    checkpoints: CheckpointSchedule
    history: list[dict[str, float]]
    _ranks = Ranks()  # all processes of the training
    _stop: bool = False  # whether `train` is to return after its step

    def stop(self) -> None:
        """Let `train` finish the step that it is in, write a checkpoint, and return.

        A signal handler may call this.
        """
        self._stop = True

    def resume(self, folder: str | Path, allow_changed: Collection[str] = ()) -> None:
        """Go on from a checkpoint, as the training that wrote it would have.

        On the same machine, with the same versions of the libraries, the weights and all metrics
        but times are those of a training that never stopped, to the last bit. If a checkpoint
        cannot be loaded, this trainer is of no further use.

        Args:
            folder: the ``out`` of a training, whose newest checkpoint is taken, or a checkpoint.
                Of several ranks only the first reads it, and the others are sent what it has.
            allow_changed: names of settings that may be others than those of the checkpoint.

        Raises:
            MissingFileError: if there is no checkpoint.
            DataError: if it is broken: says which file, and which checkpoint is before it.
            ConfigError: if it is of a training with other settings; says which.
        """
        checkpoint = share_checkpoint(self._ranks, Path(folder))
        self._adopt(checkpoint.manifest.config)
        self.checkpoints.config = self._settings()
        check_unchanged(checkpoint, self._settings(), allow_changed)
        warn_of_other_machine(checkpoint)
        with loading(checkpoint):
            self.load_state(checkpoint.state)
        self.checkpoints.resumed(checkpoint.path)
        self._told = self.checkpoints.last

    def state(self) -> State:
        """All that the next steps depend on, without a copy of the arrays."""
        parts = {name: part.state() for name, part in self._parts().items()}
        own = {"random": random_state(), "trainer": State(values=self._counts())}
        return State.joined({**parts, **own})

    def load_state(self, state: State) -> None:
        """Go on from what `state` gave.

        Raises:
            ConfigError: if it is the state of another model, environment or strategy.
            DataError: if it is the state of something else.
        """
        self._set_counts(state.part("trainer"))
        for name, part in self._parts().items():
            part.load_state(state.part(name))
        load_random_state(state.part("random"))

    def _finish(self) -> list[dict[str, float]]:
        """End a training whose last checkpoint is being written; returns its history."""
        self.checkpoints.wait()
        self._after_checkpoint(self.checkpoints.last)
        self._after_end()
        return self.history

    def _settings(self) -> dict[str, Any]:
        """What a checkpoint must agree with."""
        return {"algorithm": self.algorithm, **to_table(self.config)}

    def _adopt(self, config: Mapping[str, Any]) -> None:
        """Take over settings of a checkpoint that were left open here."""

    @abstractmethod
    def _parts(self) -> Mapping[str, HasState]:
        """What has a state of its own, by name."""

    @abstractmethod
    def _counts(self) -> dict[str, Any]:
        """What the trainer itself counts, in JSON's types."""

    @abstractmethod
    def _set_counts(self, state: State) -> None:
        """Go on from what `_counts` gave."""


def share_checkpoint(ranks: Ranks, folder: Path) -> Checkpoint:
    """The newest checkpoint of a run, which the first rank reads and sends to the others."""
    if ranks.size == 1:
        return read_checkpoint(newest(folder))
    found = read_checkpoint(newest(folder)) if ranks.is_first else None
    about: list[Any] = []
    arrays = {}
    if found is not None:
        about = [str(found.path), found.manifest._asdict(), dict(found.state.values)]
        arrays = dict(found.state.arrays)
    path, manifest, values = ranks.from_first(about)
    state = State(ranks.arrays_from_first(arrays), values)
    return Checkpoint(Path(path), Manifest(**manifest), state)
