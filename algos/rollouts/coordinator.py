"""Collects rollouts in this process or in several worker processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from textenv.algos.config import check_integer
from textenv.algos.episodes.policy_call import Policy
from textenv.algos.episodes.rollout import Rollout
from textenv.algos.rollouts.runner import RolloutRunner
from textenv.algos.rollouts.worker_runner import (
    WorkerRunner,
    check_backend,
    check_factories,
    cut,
)
from textenv.algos.strategies.strategy import Strategy, create_strategy


class RolloutCoordinator:
    """Collects rollouts in environments and with policies that it makes from factories.

    With workers, each worker process makes an environment and a policy of its own. Before each
    rollout all of them are given the weights of `policy`, which this process made and which is the
    one to train. The workers run everything that plays: the policy, the environments, the rewards,
    and the generation of a strategy. The other parts of the strategy run in this process.

    Text is cut into items of whole groups. The cut, the starts and the seeds of the noise do not
    depend on the workers. So with a policy that takes ``seeds``, as language models here do, the
    rollout is the same, token for token and in the same order, whatever their number, and whether
    or not some of them die: another worker then plays the same item.

    Control has as many environments as all workers make together. They share ``max_steps`` evenly,
    and ``env_index`` numbers all of them. The rollout is then the same for the same ``num_workers``
    (and for 0 and 1). For another number it is another rollout, since it is played in other
    environments. A policy with noise of its own should have ``reseed(seed)``, or all
    workers draw the same. A policy that is trained needs ``tensors()`` and
    ``set_tensors(tensors)``.

    Args:
        create_env: makes an environment.
        create_policy: makes a policy. With workers, each of the two must be a function at the top
            level of a module, or `functools.partial` of one.
        algorithm: the name of a strategy, or a strategy.
        num_workers: processes that collect; 0 collects in this one.
        max_steps: as in `RolloutRunner`, of all workers together.
        seed: as in `RolloutRunner`.
        on_reward_error: as in `RolloutRunner`.
        worker_timeout: seconds that a worker may take for its part of a rollout before it is ended
            and another does that part; None: ten times as long as the longest part so far, and at
            least ten minutes; an hour for the first.
        backend: where workers are: ``"local"``, processes of this machine, or ``"ray"``, actors of
            Ray, which take factories of any kind.
        ray_address: the cluster of Ray, as ``ray.init`` takes it; None: that of ``RAY_ADDRESS``, or
            else a Ray that is started here, for this machine alone.

    Attributes:
        runner: the runner of this process. It plans the rollouts, and plays them if there are no
            workers.

    Raises:
        ConfigError: for a factory that cannot be sent to a process, or ``max_steps`` that do not
            divide by the environments.
        WorkerError: if a worker does not start.
    """

    def __init__(
        self,
        create_env: Callable[[], Any],
        create_policy: Callable[[], Policy],
        algorithm: str | Strategy = "grpo",
        num_workers: int = 0,
        max_steps: int | None = None,
        seed: int = 0,
        *,
        on_reward_error: str | float = "fail",
        worker_timeout: float | None = None,
        backend: str = "local",
        ray_address: str | None = None,
    ):
        strategy = algorithm if isinstance(algorithm, Strategy) else create_strategy(algorithm)
        check_integer("num_workers", num_workers, 0)
        check_backend(backend, ray_address)
        if num_workers and backend == "local":
            check_factories(num_workers, create_env, create_policy)
        self.runner = RolloutRunner(
            create_env(), create_policy(), strategy, max_steps, seed, on_reward_error
        )
        self.num_workers = num_workers
        self._workers: WorkerRunner | None = None
        if num_workers:
            self._workers = WorkerRunner(
                self.runner,
                create_env,
                create_policy,
                num_workers,
                timeout=worker_timeout,
                backend=backend,
                ray_address=ray_address,
            )

    def collect(self) -> Rollout:
        """Collect one rollout.

        Raises:
            WorkerError: see `WorkerRunner.collect`.
            Exception: what was raised in a worker, with its traceback there as the cause. The
                other workers end with it.
        """
        runner = self.runner
        if self._workers is not None:
            return self._workers.collect()
        if not runner.is_text:
            return runner.collect()
        size = runner.strategy.num_generations
        return runner.collect(
            lambda starts: (t for part in cut(starts, size) for t in runner.play_starts(part))
        )

    def close(self) -> None:
        """Close the environments, and end the workers."""
        (self._workers or self.runner).close()

    @property
    def env(self) -> Any:
        """The environment of this process."""
        return self.runner.env

    @property
    def policy(self) -> Any:
        """The policy of this process; training it changes what the next rollout is played with."""
        return self.runner.policy

    @property
    def seed(self) -> int | None:
        """The seed, as it was given."""
        return self.runner.seed

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds spent so far in the environment and in the policy, of all workers together."""
        return self.runner.seconds

    @property
    def policy_version(self) -> int:
        """Stamped on every trajectory; whoever updates the policy counts it up."""
        return self.runner.policy_version

    @policy_version.setter
    def policy_version(self, version: int) -> None:
        self.runner.policy_version = version
