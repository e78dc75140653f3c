"""Rollouts collected in this process, or by several at once: the same rollout in either case."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from textenv.algos.config import check_integer
from textenv.algos.episodes.policy_call import Policy
from textenv.algos.episodes.trajectory import Buffer, Trajectory
from textenv.algos.rollouts.runner import RolloutRunner
from textenv.algos.rollouts.worker import (
    Item,
    LocalPool,
    Recipe,
    Share,
    WorkerError,
    check_sendable,
)
from textenv.algos.runtime import blas
from textenv.algos.strategies.protocols import Start
from textenv.algos.strategies.strategy import Strategy, create_strategy
from textenv.algos.training.microbatches import Learned, Part
from textenv.errors import ConfigError

_ITEM = 256  # trajectories, at most where groups are no larger
_MAX_SEED = 2**31 - 1


class RolloutCoordinator:
    """Collects rollouts in environments and with policies that it makes from factories.

    With workers, each of these processes makes an environment and a policy of its own, and before
    each rollout all of them are given the weights of `policy`, which this process made and which
    is the one to train. Whatever plays runs there: the policy, the environments, the rewards, the
    generation of a strategy. Its other parts run here.

    Text is cut into items of whole groups. The cut, the starts and the seeds of the noise do not
    depend on the workers, so that with a policy that takes ``seeds``, as language models here do,
    the rollout is the same, token for token and in the same order, whatever their number.

    Control has as many environments as all workers make together; they share ``max_steps``
    evenly, and ``env_index`` numbers them through. The rollout is then the same for the same
    ``num_workers`` (and for 0 and 1), and another for another number: it is played in other
    environments. A policy with noise of its own should have ``reseed(seed)``, or all workers draw
    the same; one that is trained needs ``tensors()`` and ``set_tensors(tensors)``.

    Args:
        create_env: makes an environment.
        create_policy: makes a policy. With workers, each of the two must be a function at the top
            level of a module, or `functools.partial` of one.
        algorithm: the name of a strategy, or a strategy.
        num_workers: processes that collect; 0 collects in this one.
        max_steps: as in `RolloutRunner`, of all workers together.
        seed: as in `RolloutRunner`.

    Attributes:
        runner: of this process: plans the rollouts, and plays them where there are no workers.
        policy: made in this process; training it changes what the next rollout is played with.

    Raises:
        ConfigError: for a factory that cannot be sent to a process, or ``max_steps`` that do not
            divide by the environments.
        WorkerError: where a worker does not start.
    """

    def __init__(
        self,
        create_env: Callable[[], Any],
        create_policy: Callable[[], Policy],
        algorithm: str | Strategy = "grpo",
        num_workers: int = 0,
        max_steps: int = 2048,
        seed: int = 0,
    ):
        strategy = algorithm if isinstance(algorithm, Strategy) else create_strategy(algorithm)
        _check(num_workers, create_env, create_policy)
        runner = RolloutRunner(create_env(), create_policy(), strategy, max_steps, seed)
        self._start(runner, create_env, create_policy, num_workers)

    @classmethod
    def around(
        cls,
        runner: RolloutRunner,
        create_env: Callable[[], Any],
        create_policy: Callable[[], Policy],
        num_workers: int,
        create_learner: Callable[[Policy], Callable[[list[Part]], Learned]] | None = None,
    ) -> RolloutCoordinator:
        """A coordinator around a runner, with its policy; the factories are for workers alone.

        Args:
            runner: what this process plans with, and whose policy the workers follow.
            create_env: makes an environment like that of the runner.
            create_policy: makes a policy like that of the runner.
            num_workers: processes that collect.
            create_learner: makes what `learn` asks of a worker, from its policy.
        """
        _check(num_workers, create_env, create_policy, create_learner)
        coordinator = cls.__new__(cls)
        coordinator._start(runner, create_env, create_policy, num_workers, create_learner)
        return coordinator

    def _start(
        self,
        runner: RolloutRunner,
        create_env: Any,
        create_policy: Any,
        num_workers: int,
        create_learner: Any = None,
    ) -> None:
        self.runner, self.num_workers = runner, num_workers
        self._fresh = False  # whether the workers have weights that no gradient was taken of
        self._pool: LocalPool | None = None
        if num_workers:
            self._pool = LocalPool(self._recipes(create_env, create_policy, create_learner))

    def collect(self) -> Buffer:
        """Collect one rollout.

        Raises:
            WorkerError: where a worker died, or the workers have ended already.
            Exception: what was raised in a worker, with its traceback there as the cause. The
                other workers end with it.
        """
        runner = self.runner
        if self._pool is not None:
            return self._collect_in_workers()
        if not runner.is_text:
            return runner.collect()
        size = runner.strategy.num_generations
        return runner.gather(
            lambda starts: (t for part in cut(starts, size) for t in runner.play_starts(part))
        )

    def learn(self, parts: Sequence[Part]) -> list[Learned]:
        """The gradient of a loss under the weights of `policy`, computed by the workers.

        Args:
            parts: of one update. Each worker is given neighbours, about as many as the others.

        Returns:
            What came of each worker's parts, in the order of the parts.

        Raises:
            WorkerError, Exception: as `collect`.
        """
        pool = self._open_pool()
        if not self._fresh:
            self._send_weights(pool)
        self._fresh = False  # whoever asks for a gradient changes the weights
        bounds = [len(parts) * i // self.num_workers for i in range(self.num_workers + 1)]
        version = self.runner.policy_version
        return pool.run(
            [Share(version, list(parts[a:b])) for a, b in itertools.pairwise(bounds) if a < b]
        )

    def close(self) -> None:
        """Close the environments, and end the workers."""
        if self._pool is not None:
            self._pool.close()
        self.runner.close()

    @property
    def env(self) -> Any:
        """The environment of this process."""
        return self.runner.env

    @property
    def policy(self) -> Any:
        """The policy of this process."""
        return self.runner.policy

    @property
    def seed(self) -> int | None:
        """As it was given."""
        return self.runner.seed

    @property
    def seconds(self) -> dict[str, float]:
        """Spent in the environment and in the policy, of all workers together."""
        return self.runner.seconds

    @property
    def policy_version(self) -> int:
        """Stamped on every trajectory; whoever updates the policy counts it up."""
        return self.runner.policy_version

    @policy_version.setter
    def policy_version(self, version: int) -> None:
        self.runner.policy_version = version

    def _open_pool(self) -> LocalPool:
        if self._pool is None or self._pool.closed:
            raise WorkerError("the workers have ended: make another coordinator")
        return self._pool

    def _send_weights(self, pool: LocalPool) -> None:
        """Give the workers the policy's weights."""
        tensors = getattr(self.runner.policy, "tensors", None)
        pool.set_weights(self.runner.policy_version, tensors() if callable(tensors) else {})
        self._fresh = True

    def _collect_in_workers(self) -> Buffer:
        runner, pool = self.runner, self._open_pool()
        version, size = runner.policy_version, runner.strategy.num_generations
        self._send_weights(pool)

        def play(items: list[Item]) -> list[Trajectory]:
            trajectories = []
            for played in pool.run(items):
                trajectories += played.trajectories
                for name, seconds in played.seconds.items():
                    runner.seconds[name] += seconds
            return trajectories

        if runner.is_text:
            return runner.gather(
                lambda starts: play([Item(version, part) for part in cut(starts, size)])
            )
        return Buffer(play([Item(version)] * self.num_workers))

    def _recipes(
        self, create_env: Any, create_policy: Any, create_learner: Any = None
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
            if i:  # the first is as this process would be
                draws = np.random.default_rng((seed or 0, i)).integers(_MAX_SEED, size=2)
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
                    create_learner=create_learner,
                )
            )
        return recipes


def _check(
    num_workers: int, create_env: Any, create_policy: Any, create_learner: Any = None
) -> None:
    check_integer("num_workers", num_workers, 0)
    if num_workers:
        check_sendable(
            num_workers,
            create_env=create_env,
            create_policy=create_policy,
            create_learner=create_learner,
        )


def cut(starts: Sequence[Start], group_size: int) -> list[list[Start]]:
    """Cut a rollout of text into items of whole groups, about equal in size.

    There are 2, 4, 8 ... of them, as many as it takes for none to be larger than 256 trajectories:
    fewer would leave workers idle, and more would make batches too small to be fast.
    """
    groups = len(starts) // group_size
    count = 2
    while count < groups and -(-groups // count) * group_size > _ITEM:
        count *= 2
    bounds = [group_size * (groups * i // count) for i in range(count + 1)]
    return [list(starts[a:b]) for a, b in itertools.pairwise(bounds) if a < b]
