"""Dynamic sampling: Yu et al. 2025, "DAPO" (arXiv 2503.14476), section 3.2.

Groups whose completions are all right or all wrong teach nothing when they are compared. They are
left out, and prompts are drawn again until the rollout is full of other groups.

Deviations from the paper:
- Each round draws as many prompts as groups are missing. The paper draws a whole batch, and throws
  the surplus away.
- The number of rounds has a cap, and a setting says what happens there. The paper draws without
  end.
- A group has information if its outcomes differ by more than a tolerance, so that tasks with graded
  outcomes are covered too.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from textenv.algos.config import check_bounds, check_choice, check_types
from textenv.algos.strategies.groups import TOLERANCE, is_uniform
from textenv.algos.strategies.protocols import Group, Selection
from textenv.errors import RolloutError


@dataclass
class DynamicSampling(Selection):
    """Keeps groups with information, and draws prompts again for those that are missing.

    Raises:
        ConfigError: for a cap below 1, or another value out of range.
    """

    name: ClassVar[str] = "dapo"

    cap: int = 4
    """The most rounds of one rollout. Raise it if few groups have information."""
    at_cap: Literal["train", "raise"] = "train"
    """What to do if groups are missing at the cap: train on fewer, or stop the run (raise)."""
    tolerance: float = TOLERANCE
    """Outcomes that differ by no more than this count as equal."""
    _warned: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        check_types(self)
        check_bounds(self, cap=(1, None), tolerance=(0, None))
        check_choice(self, at_cap=("train", "raise"))
        self.rounds = self.cap

    def select(self, groups: Sequence[Group]) -> list[Group]:
        """The groups whose outcomes differ."""
        return [group for group in groups if not is_uniform(group, self.tolerance)]

    def end(self, kept: int, wanted: int, rounds: int) -> None:
        """Warn the first time that groups are missing, or stop the run.

        Raises:
            RolloutError: if groups are missing and ``at_cap`` is "raise".
        """
        if kept >= wanted:
            return
        fact = f"dynamic sampling ended at its cap of {self.cap} round(s) with {kept} of {wanted} "
        if self.at_cap == "raise":
            raise RolloutError(
                f"{fact}groups: the others were all right or all wrong. Raise cap, change the "
                "difficulty of the task, or set at_cap=train"
            )
        if not self._warned:
            warnings.warn(
                f"{fact}groups, and trains on these; metric strategy/groups_missing counts what "
                "is missing from now on",
                stacklevel=2,
            )
            self._warned = True
