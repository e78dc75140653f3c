"""Follows episodes that rollouts cut into parts."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from textenv.algos.episodes.trajectory import Trajectory

T = TypeVar("T")


class EpisodeParts(Generic[T]):
    """Keeps a value for the latest part of each unfinished episode, until its next part comes.

    The next part is the one that says so: of the same environment, of the same episode, and at the
    step at which the part before it ended.
    """

    def __init__(self) -> None:
        self._kept: dict[int | None, tuple[int | None, int, T]] = {}  # by environment

    def take(self, part: Trajectory) -> T | None:
        """The value kept for the part just before this one; None if there is none.

        What is kept for this environment is forgotten in any case.
        """
        episode, step, value = self._kept.pop(part.env_index, (None, 0, None))
        follows = part.first_step > 0 and (part.episode, part.first_step) == (episode, step)
        return value if follows else None

    def keep(self, part: Trajectory, value: T) -> None:
        """Keep a value for a part that does not end its episode."""
        self._kept[part.env_index] = (part.episode, part.first_step + len(part), value)

    def state(self) -> list[list[Any]]:
        """What is kept; in JSON's types, if the values are."""
        return [[environment, *kept] for environment, kept in self._kept.items()]

    def load_state(self, state: list[list[Any]]) -> None:
        """Go on from what `state` gave."""
        self._kept = {environment: (e, step, value) for environment, e, step, value in state}
