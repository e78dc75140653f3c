"""Pools of easy, normal and hard prompts, drawn from in given shares.

Prime Intellect 2025, "INTELLECT-3: Technical Report" (arXiv 2512.16144), and the difficulty pools
of its library prime-rl, whose shares and borders are the defaults.

A prompt is easy if its pass rate is above one border, hard if it is below another, and else normal.
A prompt that was never played is normal.

Deviations from prime-rl:
- The pass rate is a running mean over all groups of a prompt, which weighs the latest most. In
  prime-rl it is that of the latest group alone.
- The shares hold over many rollouts, even if one rollout is too small for them: what is rounded off
  is carried over to the next.
- If a pool has too few prompts, prompts of the other pools take their places, normal ones first.
- A task without end is reduced to ``num_seeds`` prompts, so that prompts come again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from textenv.algos.config import check_bounds
from textenv.algos.strategies.prompts.recurring import Recurring, pass_rate
from textenv.algos.strategies.protocols import Group, Propose, Setup, Start
from textenv.errors import ConfigError

EASY, NORMAL, HARD = "easy", "normal", "hard"


@dataclass
class Pools(Recurring):
    """Draws given shares of easy, normal and hard prompts, by how well they were answered."""

    name = "pools"

    easy: float = 0.1
    """Share of the prompts drawn that are easy."""
    hard: float = 0.1
    """Share of the prompts drawn that are hard; the rest are normal."""
    easy_above: float = 0.8
    """A prompt with a pass rate above this is easy."""
    hard_below: float = 0.2
    """A prompt with a pass rate below this is hard."""
    decay: float = 0.5
    """Weight of a prompt's earlier pass rate beside that of its latest group; 0 forgets it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds(self, easy=(0, 1), hard=(0, 1), decay=(0, 1))
        if self.easy + self.hard > 1:
            raise ConfigError(
                f"easy and hard are shares of one rollout: easy={self.easy} and hard={self.hard} "
                "are more than 1 together"
            )
        if self.hard_below > self.easy_above:
            raise ConfigError(
                f"hard_below must be at most easy_above, got {self.hard_below} and "
                f"{self.easy_above}"
            )

    def prepare(self, setup: Setup) -> None:
        """Start without knowledge of any prompt."""
        super().prepare(setup)
        self._rates: dict[int, float] = {}
        self._carried = {EASY: 0.0, HARD: 0.0}  # rounded off so far
        self._drawn = {EASY: 0, NORMAL: 0, HARD: 0}  # by the latest choice

    def pool(self, key: int) -> str:
        """The pool of a prompt, by its example's id or its seed."""
        rate = self._rates.get(key)
        if rate is None:
            return NORMAL
        return EASY if rate > self.easy_above else HARD if rate < self.hard_below else NORMAL

    def choose(self, propose: Propose, count: int) -> list[Start]:
        """Easy and hard prompts at random, each at most once, and normal ones as they come."""
        chosen: list[Start] = []
        for pool, share in ((EASY, self.easy), (HARD, self.hard)):
            self._carried[pool] += share * count
            wanted = min(int(self._carried[pool] + 1e-9), count - len(chosen))
            members = [key for key in self._rates if self.pool(key) == pool]
            found = min(wanted, len(members))
            for i in self._rng.choice(len(members), found, replace=False) if found else ():
                chosen.append(self._start(members[i]))
            self._carried[pool] -= wanted  # what a pool lacks is not owed later
        chosen += self._normal(propose, count - len(chosen))
        chosen = [chosen[i] for i in self._rng.permutation(len(chosen))]
        drawn = [self.pool(self._key(start)) for start in chosen]
        self._drawn = {pool: drawn.count(pool) for pool in self._drawn}
        return chosen

    def _normal(self, propose: Propose, count: int) -> list[Start]:
        """The next normal prompts; if an epoch has too few, the next of any pool."""
        chosen: list[Start] = []
        seen = 0
        while len(chosen) < count:
            for start in self._next(propose, count - len(chosen)):
                if seen >= self._size or self.pool(self._key(start)) == NORMAL:
                    chosen.append(start)
                else:
                    self.skipped += 1
                seen += 1
        return chosen

    def observe(self, groups: Sequence[Group]) -> None:
        """Update the pass rates of the prompts that were played."""
        for group in groups:
            key, rate = self._key(group[0]), pass_rate(group)
            if rate is not None:
                before = self._rates.get(key, rate)
                self._rates[key] = self.decay * before + (1 - self.decay) * rate

    def metrics(self) -> dict[str, float]:
        """How many prompts of each pool were chosen the latest time."""
        return {pool: float(count) for pool, count in self._drawn.items()}

    def state(self) -> dict[str, Any]:
        """The pass rates, and what the shares carry over."""
        return super().state() | {
            "rates": [[key, rate] for key, rate in self._rates.items()],
            "carried": dict(self._carried),
            "drawn": dict(self._drawn),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        super().load_state(state)
        self._rates = dict(state["rates"])
        self._carried, self._drawn = dict(state["carried"]), dict(state["drawn"])
