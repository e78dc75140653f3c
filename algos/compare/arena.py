"""What all agents of a comparison share: environment, budget, evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym

from textenv.algos.compare.evaluation import EpisodePlayer
from textenv.algos.config import check_bounds, check_types
from textenv.algos.envs import make_env

EVALUATION_SEED = 1_000_000_000
"""Of the first evaluation episode; the others count up. Training seeds are far below."""


@dataclass(frozen=True)
class Arena:
    """The environment, and how agents are trained and evaluated in it.

    Raises:
        ConfigError: for a value out of range, naming the field.
    """

    env: str = "CartPole-v1"
    """Gymnasium's id."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of ``gym.make``."""
    total_timesteps: int = 100_000
    """Transitions of each run."""
    eval_every: int = 5_000
    """Transitions between two evaluations."""
    eval_episodes: int = 20
    """Episodes of an evaluation."""

    def __post_init__(self) -> None:
        check_types(self)
        check_bounds(
            self,
            **dict.fromkeys(("total_timesteps", "eval_every", "eval_episodes"), (1, None)),
        )

    def make(self) -> gym.Env:
        """One environment to train in."""
        return make_env(self.env, self.env_kwargs)

    def player(self) -> Callable[[Any], list[float]]:
        """The evaluation of this arena: takes a policy, gives its returns."""
        starts = [(EVALUATION_SEED + i, None) for i in range(self.eval_episodes)]
        return EpisodePlayer(self.make, starts)
