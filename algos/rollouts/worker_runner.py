"""Plays the rollouts of a runner, and computes gradients, in several worker processes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from textenv.algos.config import check_integer
from textenv.algos.episodes.policy_call import Policy
from textenv.algos.episodes.rollout import Rollout
from textenv.algos.episodes.trajectory import Trajectory
from textenv.algos.rollouts.planner import MAX_SEED
from textenv.algos.rollouts.runner import RolloutRunner
from textenv.algos.rollouts.workers import BACKENDS, TIMEOUTS
from textenv.algos.rollouts.workers.local import LocalPool, check_sendable
from textenv.algos.rollouts.workers.pool import WorkerPool
from textenv.algos.rollouts.workers.ray_pool import RayPool
from textenv.algos.rollouts.workers.worker import GradientItem, Recipe, RolloutItem, WorkerError
from textenv.algos.runtime import blas
from textenv.algos.strategies.protocols import Start
from textenv.algos.training.microbatches import GradientResult, MicroBatch
from textenv.errors import ConfigError, unknown

_ITEM = 256  # the most trajectories of an item, unless groups are larger

CreateGradient = Callable[[Policy], Callable[[list[MicroBatch]], GradientResult]]
"""Makes, from a worker's policy, a function that computes gradients of its weights."""


class WorkerRunner:
    """Collects the rollouts of a runner in worker processes, and computes gradients in them.

    Before each rollout the weights of the runner's policy are sent to the workers.

    On text a worker that dies or hangs is started again, and its part is done again: the rollout
    and the gradient stay the same. On control its environments' episodes are lost with it, which
    is an error.

    Args:
        runner: plans the rollouts, and keeps those parts of its strategy that do not play.
        create_env: makes an environment like that of the runner.
        create_policy: makes a policy like that of the runner.
        num_workers: how many processes, at least 1.
        create_gradient: makes a worker's function for `compute_gradient`; None: workers only play.
        timeout: seconds that a worker may take for its part before it is ended; None: ten times
            as long as the longest part so far, and at least ten minutes; an hour for the first.
        backend: ``"local"`` for processes of this machine, ``"ray"`` for actors of Ray.
        ray_address: see `RayPool`.

    Attributes:
        runner: as given; its policy is the one to train.
        num_workers: as given.

    Raises:
        ConfigError: for a factory that cannot be sent to a process, or ``max_steps`` that do not
            divide by the environments.
        WorkerError: if a worker does not start.
    """

    def __init__(
        self,
        runner: RolloutRunner,
        create_env: Callable[[], Any],
        create_policy: Callable[[], Policy],
        num_workers: int,
        create_gradient: CreateGradient | None = None,
        timeout: float | None = None,
        backend: str = "local",
        ray_address: str | None = None,
    ):
        check_integer("num_workers", num_workers, 1)
        check_backend(backend, ray_address)
        if timeout is not None and not TIMEOUTS[0] <= timeout <= TIMEOUTS[1]:
            raise ConfigError(
                f"worker_timeout must be from {TIMEOUTS[0]:g} to {TIMEOUTS[1]:g} seconds, got "
                f"{timeout!r}"
            )
        if backend == "local":
            check_factories(num_workers, create_env, create_policy, create_gradient)
        self.runner, self.num_workers = runner, num_workers
        self._fresh = False  # whether the weights were sent, and no gradient taken since
        recipes = self._recipes(create_env, create_policy, create_gradient)
        # Control goes on where the last rollout was cut, which a new worker cannot do.
        self._pool: WorkerPool
        if backend == "ray":
            self._pool = RayPool(recipes, timeout, runner.is_text, ray_address)
        else:
            self._pool = LocalPool(recipes, timeout, runner.is_text)

    @property
    def policy(self) -> Any:
        """The policy that the workers follow."""
        return self.runner.policy

    @property
    def restarts(self) -> int:
        """How often a worker was started again."""
        return self._pool.restarts

    def metrics(self) -> dict[str, float]:
        """``workers/restarts``, how often a worker was started again so far, if any was."""
        return {"workers/restarts": float(self.restarts)} if self.restarts else {}

    def collect(self) -> Rollout:
        """Collect one rollout.

        Raises:
            WorkerError: if one part of it ended three workers, if workers do not start again, if
                one died on control, or if the workers have ended already.
            Exception: what was raised in a worker, with its traceback there as the cause. The
                other workers end with it.
        """
        return self.begin()()

    def begin(self) -> Callable[[], Rollout]:
        """Send the weights to the workers.

        Returns:
            A function that collects one rollout with these weights, as `collect` does. It may run
            in another thread while the weights change here.
        """
        self._send_weights()
        return partial(self._collect, self.runner.policy_version)

    def _collect(self, version: int) -> Rollout:
        runner = self.runner
        size = runner.strategy.num_generations
        if runner.is_text:
            return runner.collect(
                lambda starts: self._play(
                    [RolloutItem(version, part) for part in cut(starts, size)]
                )
            )
        before = dict(runner.seconds)
        rollout = Rollout(self._play([RolloutItem(version)] * self.num_workers))
        rollout.seconds = {name: runner.seconds[name] - before[name] for name in before}
        return rollout

    def compute_gradient(self, microbatches: Sequence[MicroBatch]) -> list[GradientResult]:
        """The gradient of a loss at the weights of `policy`.

        Args:
            microbatches: those of one update. Each worker is given neighbours, and all are given
                about as many.

        Returns:
            The answer of each worker, in the order of the microbatches.

        Raises:
            WorkerError, Exception: as `collect`.
        """
        self._check_open()
        if not self._fresh:
            self._send_weights()
        self._fresh = False  # the caller will change the weights by this gradient
        count, version = len(microbatches), self.runner.policy_version
        bounds = [count * i // self.num_workers for i in range(self.num_workers + 1)]
        answers = self._pool.run(
            [
                GradientItem(version, list(microbatches[a:b]))
                for a, b in itertools.pairwise(bounds)
                if a < b
            ]
        )
        self._pool.forget_weights()
        return answers

    def close(self) -> None:
        """Close the environments, and end the workers."""
        self._pool.close()
        self.runner.close()

    def _play(self, items: list[RolloutItem]) -> list[Trajectory]:
        """The trajectories of some items; the workers' seconds are added to the runner's."""
        trajectories = []
        for played in self._pool.run(items):
            trajectories += played.trajectories
            for name, seconds in played.seconds.items():
                self.runner.seconds[name] += seconds
        return trajectories

    def _check_open(self) -> None:
        if self._pool.closed:
            raise WorkerError("the workers have ended: make another coordinator")

    def _send_weights(self) -> None:
        """Send the policy's weights to the workers."""
        self._check_open()
        tensors = getattr(self.runner.policy, "tensors", None)
        self._pool.set_weights(self.runner.policy_version, tensors() if callable(tensors) else {})
        self._fresh = True

    def _recipes(
        self, create_env: Any, create_policy: Any, create_gradient: CreateGradient | None
    ) -> list[Recipe]:
        runner, workers = self.runner, self.num_workers
        steps, lanes = runner.max_steps, runner.num_envs
        if not runner.is_text:
            if steps % (workers * lanes):
                raise ConfigError(
                    f"max_steps={steps} must be divisible by num_workers={workers} x "
                    f"num_envs={lanes}: a rollout is shared evenly by all environments"
                )
            steps //= workers
        threads = max(1, blas.count_threads() // workers)
        recipes = []
        for i in range(workers):
            seed = runner.seed
            noise = None
            if i:  # the first worker plays as this process would play
                draws = np.random.default_rng((seed or 0, i)).integers(MAX_SEED, size=2)
                noise = int(draws[0])
                seed = None if seed is None else int(draws[1])
            recipes.append(
                Recipe(
                    create_env,
                    create_policy,
                    runner.strategy.for_workers(),
                    max_steps=steps,
                    seed=seed,
                    noise=noise,
                    first_env=i * lanes,
                    threads=threads,
                    create_gradient=create_gradient,
                    on_reward_error=runner.scoring.on_error if runner.is_text else "fail",
                )
            )
        return recipes


def check_backend(backend: str, ray_address: str | None) -> None:
    """Check where workers are to be.

    Raises:
        ConfigError: for another backend, or an address of Ray that is not used.
    """
    if backend not in BACKENDS:
        raise ConfigError(unknown("backend", backend, BACKENDS))
    if ray_address is not None and backend != "ray":
        raise ConfigError(f"ray_address={ray_address!r} needs backend='ray', got {backend!r}")


def check_factories(
    num_workers: int, create_env: Any, create_policy: Any, create_gradient: Any = None
) -> None:
    """Refuse factories that cannot be sent to a process.

    Raises:
        ConfigError: naming the factory.
    """
    check_sendable(
        num_workers,
        create_env=create_env,
        create_policy=create_policy,
        create_gradient=create_gradient,
    )


def cut(starts: Sequence[Start], group_size: int) -> list[list[Start]]:
    """Cut a rollout of text into items of whole groups, about equal in size.

    There are 2, 4, 8 ... of them, as many as it takes for none to have more than 256 trajectories.
    Fewer would leave workers idle, and more would make batches too small to be fast.
    """
    groups = len(starts) // group_size
    count = 2
    while count < groups and -(-groups // count) * group_size > _ITEM:
        count *= 2
    bounds = [group_size * (groups * i // count) for i in range(count + 1)]
    return [list(starts[a:b]) for a, b in itertools.pairwise(bounds) if a < b]
