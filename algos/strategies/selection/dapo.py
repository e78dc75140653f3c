"""Dynamic sampling: Yu et al. 2025, "DAPO" (arXiv 2503.14476), section 3.2.

Groups whose completions are all right or all wrong teach nothing when they are compared. They are
left out, and prompts are drawn again until the rollout is full of other groups.

Deviations from the paper:
- Each round draws as many prompts as groups are missing. The paper draws a whole batch, and throws
  the surplus away. With ``oversample`` a round draws as many as are expected to be needed, and the
  surplus is thrown away too.
- The number of rounds has a cap, and a setting says what happens there. The paper draws without
  end.
- A group has information if its outcomes differ by more than a tolerance, so that tasks with graded
  outcomes are covered too.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from textenv.algos.config import check_bounds, check_choice, check_types
from textenv.algos.strategies.groups import TOLERANCE, is_uniform
from textenv.algos.strategies.protocols import Group, Selection, Setup
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
    oversample: bool = False
    """Draw, at once, as many prompts as the last rollout's share of groups with information lets
    expect to be needed, in all at most cap times the groups of a rollout. A large round takes less
    time than several small ones."""
    _wanted: int = field(default=0, init=False, repr=False)
    _share: float = field(default=1.0, init=False, repr=False)  # with information, last rollout
    _played: int = field(default=0, init=False, repr=False)
    _kept: int = field(default=0, init=False, repr=False)
    _warned: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        check_types(self)
        check_bounds(self, cap=(1, None), tolerance=(0, None))
        check_choice(self, at_cap=("train", "raise"))
        self.rounds = self.cap
        self.oversampling = self.cap if self.oversample else 1

    def prepare(self, setup: Setup) -> None:
        """Take note of the size of a rollout."""
        self._wanted = setup.num_groups

    def ask(self, missing: int, played: int) -> int:
        """As many groups as are missing, or as many as it takes to find these."""
        if not self.oversample:
            return missing
        needed = math.ceil(missing / max(self._share, 1 / self.cap))
        return min(needed, self.cap * self._wanted - played)

    def select(self, groups: Sequence[Group]) -> list[Group]:
        """The groups whose outcomes differ."""
        kept = [group for group in groups if not is_uniform(group, self.tolerance)]
        self._played += len(groups)
        self._kept += len(kept)
        return kept

    def end(self, kept: int, wanted: int, rounds: int) -> None:
        """Warn the first time that groups are missing, or stop the run.

        Raises:
            RolloutError: if groups are missing and ``at_cap`` is "raise".
        """
        self._share = self._kept / self._played if self._played else 1.0
        self._played = self._kept = 0
        if kept >= wanted:
            return
        fact = f"dynamic sampling ended at its cap ({self.cap}) with {kept} of {wanted} "
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

    def state(self) -> dict[str, Any]:
        """The share of the last rollout's groups that had information."""
        return {"share": self._share}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._share = float(state["share"])
