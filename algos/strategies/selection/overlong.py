"""Soft overlong punishment: Yu et al. 2025, "DAPO" (arXiv 2503.14476), section 3.4, equation 13.

A completion that comes near the limit loses reward: nothing up to ``max_length - cache`` tokens, 1
at ``max_length``, and in between in proportion to its length.

Deviations from the paper:
- The loss of reward changes the advantages alone (``Trajectory.shaping``). Rewards, and the
  outcomes by which groups are judged, stay as the environment gave them.
- If an episode has many turns, its longest turn counts.
- By default the cache is a fifth of the limit, as the paper's 4096 is of 20480.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import ClassVar

from textenv.algos.config import check_bounds, check_types
from textenv.algos.episodes.trajectory import Trajectory
from textenv.algos.strategies.protocols import Group, Selection, Setup
from textenv.errors import ConfigError


@dataclass
class OverlongPunishment(Selection):
    """Takes up to 1 from the reward that the advantages of a long completion are computed from.

    Raises:
        ConfigError: for a value out of range.
    """

    name: ClassVar[str] = "overlong"

    max_length: int | None = None
    """Tokens from which a completion loses the whole 1; unset: the policy's limit."""
    cache: int | None = None
    """How many tokens before the limit the loss begins; unset: a fifth of the limit."""
    _bounds: tuple[int, int] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        check_types(self)
        check_bounds(self, max_length=(1, None), cache=(1, None))

    def prepare(self, setup: Setup) -> None:
        """Find the limit.

        Raises:
            ConfigError: if there is no limit, or ``cache`` is more than it.
        """
        limit = self.max_length
        if limit is None:
            limit = getattr(getattr(setup.policy, "params", None), "max_tokens", None)
        if limit is None:
            raise ConfigError("max_length must be set: this policy has no limit of its own")
        cache = max(1, limit // 5) if self.cache is None else self.cache
        if cache > limit:
            raise ConfigError(f"cache={cache} is more than max_length={limit}")
        self._bounds = (limit, cache)

    def select(self, groups: Sequence[Group]) -> list[Group]:
        """All groups; long completions have a lower ``shaping``."""
        return [[self._shape(trajectory) for trajectory in group] for group in groups]

    def _shape(self, trajectory: Trajectory) -> Trajectory:
        assert self._bounds is not None, "prepare comes first"
        turns = [sum(run) for chosen, run in groupby(trajectory.token_mask or ()) if chosen]
        lost = punishment(max(turns, default=0), *self._bounds)
        if not lost:
            return trajectory
        return replace(trajectory, shaping=(trajectory.shaping or 0.0) + lost)


def punishment(length: int, limit: int, cache: int) -> float:
    """What is added to the reward of a completion of this length: from 0 to -1."""
    return -min(1.0, max(0.0, (length - (limit - cache)) / cache))
