"""The inside of a worker process: an environment, a policy, and what it does for each item of work.

A worker is sent the weights of the policy, and items of work: where episodes start, or the
microbatches of an update whose gradient is wanted. Each item names the version of the weights that
it is meant for. A worker does not depend on what carries the messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from textenv.algos.episodes.policy_call import Policy
from textenv.algos.episodes.scoring import Scored
from textenv.algos.episodes.trajectory import Trajectory
from textenv.algos.rollouts.runner import RolloutRunner
from textenv.algos.runtime import blas
from textenv.algos.strategies.protocols import Start
from textenv.algos.strategies.strategy import Strategy
from textenv.algos.training.microbatches import GradientResult, MicroBatch


class WorkerError(RuntimeError):
    """A worker process failed, or has ended."""


class WorkerTraceback(Exception):
    """The traceback, as text, of what was raised or what hung in a worker process."""

    def __init__(self, worker: str, text: str):
        super().__init__(worker, text)

    def __str__(self) -> str:
        worker, text = self.args
        return f"in {worker}\n\n{text}"


@dataclass(frozen=True)
class Recipe:
    """What a worker needs to make its environment and its policy."""

    create_env: Callable[[], Any]
    create_policy: Callable[[], Policy]
    strategy: Strategy
    max_steps: int
    seed: int | None
    noise: int | None = None
    """Seed for a policy that draws from a generator of its own (``reseed``); None sets none."""
    first_env: int = 0
    """Control: the number of its first environment among those of all workers."""
    threads: int = 1
    """How many threads multiply its matrices."""
    create_gradient: Callable[[Policy], Callable[[list[MicroBatch]], GradientResult]] | None = None
    """Makes a function that computes gradients of the policy's weights; None: it only plays."""
    on_reward_error: str | float = "fail"
    """What to do if a reward function fails, see `RolloutRunner`."""


class RolloutItem(NamedTuple):
    """A part of a rollout that a worker is to play."""

    policy_version: int
    """The version of the weights that it must be played with."""
    starts: list[Start] | None = None
    """Text: where its episodes start. Control: None; the worker plays its share of transitions."""
    refused: Mapping[Scored, str] = {}
    """Completions that are not to be scored, since that ended two workers; and how it did."""

    @property
    def what(self) -> str:
        """What it is a part of."""
        return "rollout"


class GradientItem(NamedTuple):
    """Microbatches of an update, whose gradient a worker is to compute."""

    policy_version: int
    """The version of the weights that the gradient is taken at."""
    microbatches: list[MicroBatch]

    @property
    def what(self) -> str:
        """What it is a part of."""
        return "update"


class Played(NamedTuple):
    """The trajectories that a worker played for an item, and the time it took."""

    trajectories: list[Trajectory]
    seconds: dict[str, float]
    """Time spent in the environment and in the policy."""


class RolloutWorker:
    """Plays items and computes gradients, with an environment and a policy of its own.

    Args:
        recipe: how to make them.
        note: is called with each completion that is about to be scored, and with None after that;
            None: nobody wants to know.
    """

    def __init__(self, recipe: Recipe, note: Callable[[Scored | None], None] | None = None):
        blas.limit_threads(recipe.threads)
        policy = recipe.create_policy()
        if recipe.noise is not None and hasattr(policy, "reseed"):
            policy.reseed(recipe.noise)
        self.runner = RolloutRunner(
            recipe.create_env(),
            policy,
            recipe.strategy,
            recipe.max_steps,
            recipe.seed,
            recipe.on_reward_error,
        )
        if self.runner.is_text:
            self.runner.scoring.note = note
        self._first_env = recipe.first_env
        self._gradient = recipe.create_gradient and recipe.create_gradient(policy)
        self._version: int | None = None  # no weights were sent yet

    def set_weights(self, version: int, tensors: Mapping[str, np.ndarray]) -> None:
        """Play with these weights from now on; ``tensors`` is empty if the policy takes none."""
        if tensors:
            self.runner.policy.set_tensors(tensors)  # type: ignore[attr-defined]
        self._version = self.runner.policy_version = version

    def play(self, item: RolloutItem) -> Played:
        """Play an item.

        Raises:
            WorkerError: if it is for weights of another version.
        """
        self._check_version(item.policy_version)
        runner = self.runner
        before = dict(runner.seconds)
        if item.starts is None:
            rollout: Iterable[Trajectory] = runner.collect()
        else:
            runner.scoring.refused = item.refused
            rollout = runner.play_starts(item.starts)
        for trajectory in rollout:
            if trajectory.env_index is not None:
                trajectory.env_index += self._first_env
        seconds = {name: runner.seconds[name] - before[name] for name in before}
        return Played(list(rollout), seconds)

    def compute_gradient(self, item: GradientItem) -> GradientResult:
        """Compute the gradient of some microbatches.

        Raises:
            WorkerError: if it is for weights of another version.
        """
        self._check_version(item.policy_version)
        assert self._gradient is not None, "the recipe has no create_gradient"
        return self._gradient(item.microbatches)

    def close(self) -> None:
        """Close the environments."""
        self.runner.close()

    def _check_version(self, version: int) -> None:
        if version != self._version:
            raise WorkerError(
                f"an item for weights of version {version} came to a worker that has "
                f"version {self._version}"
            )
