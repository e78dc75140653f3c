"""The inside of a worker process: an environment, a policy, and the messages that it answers.

A worker is sent the weights of the policy, and items of work: where episodes start, or the
microbatches of an update whose gradient is wanted. Each item names the version of the weights that
it is meant for. A worker does not depend on what carries the messages; `serve` answers those that
come through a pipe.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

import numpy as np

from textenv.algos.episodes.policy_call import Policy
from textenv.algos.episodes.trajectory import Trajectory
from textenv.algos.rollouts.runner import RolloutRunner
from textenv.algos.runtime import blas
from textenv.algos.strategies.protocols import Start
from textenv.algos.strategies.strategy import Strategy
from textenv.algos.training.microbatches import GradientResult, MicroBatch


class WorkerError(RuntimeError):
    """A worker process failed, or has ended."""


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


class RolloutItem(NamedTuple):
    """A part of a rollout that a worker is to play."""

    policy_version: int
    """The version of the weights that it must be played with."""
    starts: list[Start] | None = None
    """Text: where its episodes start. Control: None; the worker plays its share of transitions."""


class GradientItem(NamedTuple):
    """Microbatches of an update, whose gradient a worker is to compute."""

    policy_version: int
    """The version of the weights that the gradient is taken at."""
    microbatches: list[MicroBatch]


class Played(NamedTuple):
    """The trajectories that a worker played for an item, and the time it took."""

    trajectories: list[Trajectory]
    seconds: dict[str, float]
    """Time spent in the environment and in the policy."""


class RolloutWorker:
    """Plays items and computes gradients, with an environment and a policy of its own.

    Args:
        recipe: how to make them.
    """

    def __init__(self, recipe: Recipe):
        blas.limit_threads(recipe.threads)
        policy = recipe.create_policy()
        if recipe.noise is not None and hasattr(policy, "reseed"):
            policy.reseed(recipe.noise)
        self.runner = RolloutRunner(
            recipe.create_env(), policy, recipe.strategy, recipe.max_steps, recipe.seed
        )
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
        rollout = runner.collect() if item.starts is None else runner.play_starts(item.starts)
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


def serve(connection: Connection) -> None:
    """Answer messages until the other end of the pipe is closed; runs in the worker's process."""
    # Ctrl-C goes to all processes of a terminal; the parent's way of ending this one is SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    worker: RolloutWorker | None = None
    try:
        while True:
            try:
                worker, answer = _answer(connection, worker)
                data = ForkingPickler.dumps(("done", answer))
            except EOFError:
                return
            except Exception as error:  # the user's code may raise anything, which is passed on
                data = ForkingPickler.dumps(("raised", _sendable(error)))
            connection.send_bytes(data)
    except ConnectionError:  # the other end of the pipe is gone
        return
    finally:
        if worker is not None:
            worker.close()


def _answer(connection: Connection, worker: RolloutWorker | None) -> tuple[RolloutWorker, Any]:
    """Do what the next message asks for."""
    message = connection.recv()
    if worker is None:
        return RolloutWorker(message), os.getpid()
    if isinstance(message, RolloutItem):
        return worker, worker.play(message)
    if isinstance(message, GradientItem):
        return worker, worker.compute_gradient(message)
    version, header = message
    tensors = {
        name: np.frombuffer(connection.recv_bytes(), dtype).reshape(shape)
        for name, dtype, shape in header
    }
    worker.set_weights(version, tensors)
    return worker, version


def _sendable(error: Exception) -> tuple[Exception | None, str]:
    """An exception, or None if pickling would change it, and its traceback as text."""
    text = "".join(traceback.format_exception(error))
    with suppress(Exception):  # a user's exception may not allow that
        again = ForkingPickler.loads(ForkingPickler.dumps(error))
        if type(again) is type(error) and str(again) == str(error):
            return error, text
    return None, text
