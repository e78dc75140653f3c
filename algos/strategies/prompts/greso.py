"""GRESO: skips, before the rollout, prompts that taught nothing lately.

Zheng et al. 2025, "Act Only When It Pays" (arXiv 2506.02177), section 4.

A prompt whose latest z groups were all uniform is passed over with probability 1 - p^z. So a prompt
is played more rarely the longer it has taught nothing, and the first group with information brings
it back at once. There are two p: one for prompts whose latest group was all right, and one for
prompts whose latest group was all wrong. After each rollout both move by a fixed step: down if the
share of such groups has reached its target, and up if it has not.

The defaults are those of the authors' code (Infini-AI-Lab/GRESO). Both p begin at 0.5 and move by
0.01 after a rollout. A quarter of the groups may be uniform, a third of these all right and two
thirds all wrong. A prompt is played with a probability of at least 0.01, so that a finite task that
is solved leaves something to play.

Deviations from the paper and this code:
- p stays between ``least`` and 1. In the code it stays between 0.05 and 0.95, and begins to move in
  the second epoch.
- A group is uniform if the range of its outcomes is within a tolerance, not if its reward has a
  variance of 0. The code calls a prompt right from a mean reward of 0.98, and wrong up to 0.11.
- z counts uniform groups in a row. If right and wrong ones follow each other, the code counts the
  latest kind alone.
- The size of a rollout is fixed. The paper also lowers it if few groups are missing.
- A task without end is reduced to ``num_seeds`` prompts, so that prompts come again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from textenv.algos.config import check_bounds
from textenv.algos.strategies.groups import is_uniform
from textenv.algos.strategies.prompts.recurring import Recurring, pass_rate
from textenv.algos.strategies.protocols import Group, Propose, Setup, Start
from textenv.errors import ConfigError


@dataclass
class Greso(Recurring):
    """Skips prompts whose groups were uniform lately."""

    name = "greso"

    exploration: float = 0.5
    """p at the start. A higher one plays uninformative prompts more often."""
    target_right: float = 0.083
    """Share of a rollout's groups that may be all right before their p goes down."""
    target_wrong: float = 0.167
    """Share of a rollout's groups that may be all wrong before their p goes down."""
    step: float = 0.01
    """How far p moves after a rollout; 0 leaves it where it is."""
    least: float = 0.01
    """The least probability that a prompt is played when its turn comes."""
    right_from: float = 0.5
    """A uniform group is all right if its outcomes are at least this, and else all wrong."""

    def __post_init__(self) -> None:
        super().__post_init__()
        share = (0.0, 1.0)
        check_bounds(self, exploration=share, target_right=share, target_wrong=share, step=share)
        if not 0 < self.least <= self.exploration:
            raise ConfigError(
                f"least must be above 0 and at most exploration={self.exploration}, "
                f"got {self.least}"
            )

    def check(self, num_generations: int) -> None:
        """Refuse groups of one trajectory, which are always uniform."""
        if num_generations < 2:
            raise ConfigError(
                f"greso compares the trajectories of a group: num_generations must be at least 2, "
                f"got {num_generations}"
            )

    def prepare(self, setup: Setup) -> None:
        """Start without knowledge of any prompt."""
        super().prepare(setup)
        self._exploration = {True: self.exploration, False: self.exploration}
        self._uniform: dict[int, tuple[int, bool]] = {}  # by prompt: how many in a row; right?

    def choose(self, propose: Propose, count: int) -> list[Start]:
        """The next prompts, without those that are passed over."""
        chosen: list[Start] = []
        while len(chosen) < count:
            for start in self._next(propose, count - len(chosen)):
                if self._rng.random() < self.play_probability(self._key(start)):
                    chosen.append(start)
                else:
                    self.skipped += 1
        return chosen

    def play_probability(self, key: int) -> float:
        """The probability that a prompt, by its example's id or its seed, is played in its turn."""
        times, right = self._uniform.get(key, (0, False))
        return max(self.least, self._exploration[right] ** times)

    def observe(self, groups: Sequence[Group]) -> None:
        """Count uniform groups in a row, and move p towards the target shares."""
        count = {True: 0, False: 0}
        for group in groups:
            key, rate = self._key(group[0]), pass_rate(group)
            if rate is None:
                continue
            if is_uniform(group):
                right = rate >= self.right_from
                times, _ = self._uniform.get(key, (0, right))
                self._uniform[key] = (times + 1, right)
                count[right] += 1
            else:
                self._uniform.pop(key, None)
        if not groups:
            return
        for right, target in ((True, self.target_right), (False, self.target_wrong)):
            way = -self.step if count[right] / len(groups) >= target else self.step
            self._exploration[right] = min(1.0, max(self.least, self._exploration[right] + way))

    def metrics(self) -> dict[str, float]:
        """Both p, and the number of prompts whose latest group was uniform."""
        return {
            "exploration_right": self._exploration[True],
            "exploration_wrong": self._exploration[False],
            "uniform_prompts": float(len(self._uniform)),
        }

    def state(self) -> dict[str, Any]:
        """Both p, and what is known of each prompt."""
        return super().state() | {
            "exploration": [self._exploration[False], self._exploration[True]],
            "uniform": [[key, times, right] for key, (times, right) in self._uniform.items()],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        super().load_state(state)
        self._exploration = dict(zip((False, True), state["exploration"]))
        self._uniform = {key: (times, right) for key, times, right in state["uniform"]}
