"""Overlong filtering: Yu et al. 2025, "DAPO" (arXiv 2503.14476), section 3.4, and two more filters.

Completions that ran out of tokens are left out, since their reward says little about what they did.
Two settings also leave out completions that repeat themselves, or that are too long.

Deviations from the paper:
- A completion is left out of its group before advantages are computed, so that the others are
  compared with each other. The paper masks its loss alone.
- The paper has no filter of repetition or length. Repetition is the share of n-grams of tokens that
  have come before in the same completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import ClassVar

from textenv.algos.config import check_bounds, check_types
from textenv.algos.episodes.trajectory import Trajectory
from textenv.algos.strategies.groups import thin
from textenv.algos.strategies.protocols import Group, Selection


@dataclass
class Drop(Selection):
    """Drops trajectories by what they are, and groups of which fewer than two are left.

    Raises:
        ConfigError: for a value out of range.
    """

    name: ClassVar[str] = "drop"

    truncated: bool = True
    """Drop completions that ran out of tokens before their end."""
    repetition: float | None = None
    """Drop completions of which a greater share is repeated; unset: none."""
    ngram: int = 4
    """How many tokens in a row must come again to count as repeated."""
    longest: int | None = None
    """Drop completions with more tokens than this; unset: none."""

    def __post_init__(self) -> None:
        check_types(self)
        check_bounds(self, repetition=(0, 1), ngram=(1, None), longest=(1, None))

    def select(self, groups: Sequence[Group]) -> list[Group]:
        """What is left of each group, without the groups that cannot be compared any more."""
        kept = []
        for group in groups:
            good = [i for i, trajectory in enumerate(group) if self._is_good(trajectory)]
            if len(good) >= min(2, len(group)):
                kept.append(group if len(good) == len(group) else thin(group, good))
        return kept

    def _is_good(self, trajectory: Trajectory) -> bool:
        tokens = list(compress(trajectory.token_ids or (), trajectory.token_mask or ()))
        return not (
            (self.truncated and trajectory.completion_truncated)
            or (self.longest is not None and len(tokens) > self.longest)
            or (self.repetition is not None and repeated(tokens, self.ngram) > self.repetition)
        )


def repeated(tokens: Sequence[int], size: int) -> float:
    """The share of n-grams of this size that have come before; 0 if there are no n-grams."""
    grams = [tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
