"""The base of parts that remember prompts: a finite number of prompts, and how well each went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from textenv.algos.config import check_bounds, check_types
from textenv.algos.episodes.trajectory import Trajectory
from textenv.algos.storage.checkpoints.state import load_rng, save_rng
from textenv.algos.strategies.groups import outcome
from textenv.algos.strategies.protocols import (
    Group,
    Prompts,
    Propose,
    Setup,
    Start,
)

_MAX_SEED = 2**31 - 1


@dataclass
class Recurring(Prompts):
    """Chooses among a finite number of prompts.

    These are the examples of a finite task (a dataset, your own prompts). Of a task that draws its
    examples without end, and of any task in a vector environment, they are the examples of
    ``num_seeds`` seeds: choose as many as an epoch is to have.
    """

    num_seeds: int = 1024
    """Prompts of a task without a fixed number of examples. Fewer of them come again sooner."""

    def __post_init__(self) -> None:
        check_types(self)
        check_bounds(self, num_seeds=(1, None))

    def prepare(self, setup: Setup) -> None:
        """Find the prompts, or draw the seeds that stand for them."""
        self._rng = setup.rng(self.name)
        ids = example_ids(setup.env)
        self._by_id = ids is not None
        self._size = self.num_seeds if ids is None else len(ids)
        self._seeds: list[int] = []
        if ids is None:
            self._seeds = self._rng.integers(_MAX_SEED, size=self._size).tolist()
        self._epoch: list[int] = []  # seeds that are still to come

    def state(self) -> dict[str, Any]:
        """The generator's state, and the prompts that are still to come in this epoch."""
        return {
            "rng": save_rng(self._rng),
            "seeds": list(self._seeds),
            "epoch": list(self._epoch),
            "skipped": self.skipped,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        load_rng(self._rng, state["rng"])
        self._seeds, self._epoch = list(state["seeds"]), list(state["epoch"])
        self.skipped = state["skipped"]

    def _next(self, propose: Propose, count: int) -> list[Start]:
        """The next prompts in the uniform order, in shuffled epochs."""
        if self._by_id:
            return propose(count)
        while len(self._epoch) < count:
            self._epoch += self._rng.permutation(self._seeds).tolist()
        drawn, self._epoch = self._epoch[:count], self._epoch[count:]
        return [Start(0, seed, None) for seed in drawn]

    def _start(self, key: int) -> Start:
        """A start from this prompt."""
        if not self._by_id:
            return Start(0, key, None)
        return Start(0, int(self._rng.integers(_MAX_SEED)), {"example_id": key})

    def _key(self, start: Start | Trajectory) -> int:
        """The key of a prompt: its example's id, or its seed."""
        if not self._by_id:
            assert start.seed is not None  # episodes of text always have one
            return start.seed
        if isinstance(start, Trajectory):
            return start.reset_info["example_id"]
        return (start.options or {})["example_id"]


def example_ids(env: Any) -> list[int] | None:
    """Ids of a finite task that a reset can name; None if episodes are drawn by seed."""
    if isinstance(getattr(env, "env", None), VectorEnv):  # its options go to all lanes alike
        return None
    return getattr(getattr(getattr(env, "unwrapped", env), "task", None), "ids", None)


def pass_rate(group: Group) -> float | None:
    """The mean outcome of a group; None if nothing was scored."""
    values = np.array([outcome(trajectory) for trajectory in group], np.float64)
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else None
