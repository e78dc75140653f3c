"""Plans where the episodes of a rollout of text start: from which examples and seeds."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Any

import numpy as np

from textenv.algos.episodes.environments import innermost, title
from textenv.algos.storage.checkpoints.state import load_rng, save_rng
from textenv.algos.strategies.protocols import Start
from textenv.algos.strategies.strategy import Strategy
from textenv.errors import ConfigError

MAX_SEED = 2**31 - 1
_MOST_COMPARED = 10_000  # examples of a finite task, spread over all of them
_MAX_NOISE = 2**63 - 1  # so large that the seeds of two episodes and their turns do not meet


class Planner:
    """Plans rollouts of text, group by group.

    Args:
        env: the environment; a task with a finite number of examples goes through them in shuffled
            epochs.
        strategy: its part for the prompts chooses the starts.
        seed: seeds the resets and the noise.
        same_options: whether all episodes must be reset with the same options, as those of a
            vector environment are.
    """

    def __init__(self, env: Any, strategy: Strategy, seed: int | None, same_options: bool):
        self._env, self._strategy, self._same_options = env, strategy, same_options
        self._resets = np.random.default_rng(seed)
        self._noise = np.random.default_rng(None if seed is None else (seed, 1))
        self._next_group = 0
        self._epoch: list[int] = []  # ids of a finite task that are still to come

    def plan(self, count: int) -> list[Start]:
        """The starts of the next groups, each repeated for all trajectories of its group.

        A start and the policy's weights determine an episode. So the starts may be played in parts
        of whole groups, by any process that has the same environment and policy.

        Args:
            count: how many groups.

        Raises:
            ConfigError: if the strategy wants options that the environment cannot be given.
        """
        chosen = self._strategy.prompts.choose(self._propose, count)
        if self._same_options and any(start.options for start in chosen):
            raise ConfigError(
                "the strategy starts episodes with options, which a vector environment gives to "
                "all its environments alike: use a single environment"
            )
        starts = []
        for start in chosen:
            starts += [start._replace(group_id=self._next_group)] * self._strategy.num_generations
            self._next_group += 1
        noise = self._noise.integers(_MAX_NOISE, size=len(starts)).tolist()
        return [start._replace(noise=seed) for start, seed in zip(starts, noise)]

    def _propose(self, count: int) -> list[Start]:
        """The next starts in the uniform order, one a group."""
        seeds = self._resets.integers(MAX_SEED, size=count).tolist()
        ids = getattr(self._task, "ids", None)
        if ids is None or self._same_options:
            return [Start(0, seed, None) for seed in seeds]
        while len(self._epoch) < count:
            self._epoch += [ids[i] for i in self._resets.permutation(len(ids))]
        drawn, self._epoch = self._epoch[:count], self._epoch[count:]
        return [
            Start(0, seed, {"example_id": example_id}) for seed, example_id in zip(seeds, drawn)
        ]

    @property
    def _task(self) -> Any:
        return getattr(innermost(self._env), "task", None)

    @cached_property
    def _examples(self) -> str | None:
        """The SHA-256 of the examples of a finite task."""
        ids = getattr(self._task, "ids", None)
        if not ids:
            return None
        digest = hashlib.sha256()
        for i in range(0, len(ids), -(-len(ids) // _MOST_COMPARED)):
            example = self._task.example(ids[i])
            row = json.dumps(example, sort_keys=True, default=lambda value: type(value).__name__)
            digest.update(row.encode(errors="surrogatepass"))
        return digest.hexdigest()

    def state(self) -> dict[str, Any]:
        """The state that the next plans depend on, in JSON's types."""
        return {
            "environment": title(self._env),
            "examples": self._examples,
            "next_group": self._next_group,
            "epoch": list(self._epoch),
            "resets": save_rng(self._resets),
            "noise": save_rng(self._noise),
            "strategy": self._strategy.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave.

        Raises:
            ConfigError: if it is the state of another environment, task or strategy.
            DataError, KeyError, TypeError, AttributeError: if it is not a state.
        """
        if state["environment"] != title(self._env):
            raise ConfigError(
                f"the state is of rollouts in {state['environment']}; this environment is "
                f"{title(self._env)}"
            )
        if state["examples"] != self._examples:
            raise ConfigError(
                f"the examples of {title(self._env)} are others than those that the state is of: "
                "go on with the same, in the same order"
            )
        self._strategy.load_state(state["strategy"])
        load_rng(self._resets, state["resets"])
        load_rng(self._noise, state["noise"])
        self._next_group, self._epoch = int(state["next_group"]), list(state["epoch"])
