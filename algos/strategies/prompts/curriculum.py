"""A curriculum: difficulty that follows the pass rate.

Stojanovski et al. 2025, "Reasoning Gym" (arXiv 2505.24760), the experiments with a curriculum,
whose thresholds are the defaults; Shi et al. 2025, AdaRFT (2504.05520), move a difficulty by the
mean reward.

All prompts of a rollout are drawn at one level of the task (`Task.levels`). If the mean pass rate
of the latest ``window`` groups at this level reaches ``up``, the level rises. If it falls to
``down``, the level falls. After a move the window begins anew.

Deviations:
- The window counts groups, and not optimizer steps.
- A task of reasoning-gym moves all attributes of the dataset's own curriculum together. If its
  ``task_kwargs`` name no level, it begins at the lowest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gymnasium.vector import VectorEnv

from textenv.algos.config import check_bounds, check_types
from textenv.algos.strategies.prompts.recurring import pass_rate
from textenv.algos.strategies.protocols import Group, Prompts, Propose, Setup, Start
from textenv.errors import ConfigError


@dataclass
class Curriculum(Prompts):
    """Moves the level of the task's difficulty with the pass rate."""

    name = "curriculum"

    window: int = 64
    """How many groups the pass rate is the mean of. More react later, and to less noise."""
    up: float = 0.7
    """The level rises if the pass rate is at least this."""
    down: float = 0.1
    """The level falls if the pass rate is at most this."""
    step: int = 1
    """By how many levels it rises or falls at a time."""
    start: int | None = None
    """The first level; unset: the level of the task, or its lowest if it is at none."""

    def __post_init__(self) -> None:
        check_types(self)
        check_bounds(self, window=(1, None), step=(1, None), up=(0, 1), down=(0, 1))
        if self.down >= self.up:
            raise ConfigError(f"down must be below up, got {self.down} and {self.up}")

    def prepare(self, setup: Setup) -> None:
        """Find the levels of the task, and begin at the first one.

        Raises:
            ConfigError: for a task without levels, a vector environment, or a ``start`` that is
                not one of the levels.
        """
        if isinstance(getattr(setup.env, "env", None), VectorEnv):
            raise ConfigError(
                "curriculum needs a single environment: a vector environment resets all of its "
                "lanes with the same options; pass one environment, copies are made of it"
            )
        env = getattr(setup.env, "unwrapped", setup.env)
        task = getattr(env, "task", None)
        levels = getattr(task, "levels", None)
        if task is None or levels is None:
            what = f"task {task.name!r}" if task is not None else type(env).__name__
            raise ConfigError(f"curriculum needs levels of difficulty, and {what} has none")
        first = task.level if self.start is None else self.start
        self._levels: range = levels
        self.level: int = levels[0] if first is None else first
        if self.level not in levels:
            raise ConfigError(
                f"start must be a level of {task.name}, from {levels[0]} to {levels[-1]}, "
                f"got {self.start}"
            )
        self._rates: list[float] = []  # of the latest groups at this level

    def choose(self, propose: Propose, count: int) -> list[Start]:
        """The next prompts, at the present level."""
        return [
            start._replace(options={**(start.options or {}), "level": self.level})
            for start in propose(count)
        ]

    def observe(self, groups: Sequence[Group]) -> None:
        """Move the level if the window is full and its pass rate has reached a bound."""
        at_level = [g for g in groups if g[0].reset_info.get("level") == self.level]
        for rate in map(pass_rate, at_level):
            if rate is None:
                continue
            self._rates = [*self._rates, rate][-self.window :]
        if len(self._rates) < self.window:
            return
        mean = sum(self._rates) / self.window
        by = self.step if mean >= self.up else -self.step if mean <= self.down else 0
        moved = min(max(self.level + by, self._levels[0]), self._levels[-1])
        if moved != self.level:
            self.level, self._rates = moved, []

    def metrics(self) -> dict[str, float]:
        """The level, and the pass rate in the window so far."""
        rate = sum(self._rates) / len(self._rates) if self._rates else 0.0
        return {"level": float(self.level), "pass_rate": rate}

    def state(self) -> dict[str, Any]:
        """The level and the window."""
        return {"level": self.level, "rates": list(self._rates)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.level, self._rates = state["level"], list(state["rates"])
