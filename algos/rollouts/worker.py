"""Local processes that collect rollouts: each makes its own environments and policy.

A worker is sent weights, and items of work: where episodes start, or the parts of an update whose
gradient is wanted, and the version of the weights that they are meant for. A `Player` is all that a
worker knows, whatever carries the messages; `LocalPool` carries them over pipes. Weights travel as
the bytes of their arrays; the rest is pickled, by `multiprocessing` itself, between this process
and its own children.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

import numpy as np

from textenv.algos.episodes.policy_call import Policy
from textenv.algos.episodes.trajectory import Trajectory
from textenv.algos.rollouts.runner import RolloutRunner
from textenv.algos.runtime import blas
from textenv.algos.strategies.protocols import Start
from textenv.algos.strategies.strategy import Strategy
from textenv.algos.training.microbatches import Learned, Part
from textenv.errors import ConfigError

_PRELOAD = (
    "textenv.algos.lm.generation.policy",
    "textenv.algos.control.mlp_policy",
    "textenv.algos.rollouts.runner",
)
_GRACE = 3.0  # seconds that a process has to end by itself


class WorkerError(RuntimeError):
    """A worker process failed, or is gone."""


class WorkerTraceback(Exception):
    """The traceback, as text, of what was raised in a worker process."""

    def __str__(self) -> str:
        return f"in a worker process\n\n{self.args[0]}"


@dataclass(frozen=True)
class Recipe:
    """What a worker makes itself from."""

    create_env: Callable[[], Any]
    create_policy: Callable[[], Policy]
    strategy: Strategy
    max_steps: int
    seed: int | None
    noise: int | None = None
    """Seed for a policy that draws from a stream of its own (``reseed``); None leaves it."""
    first_env: int = 0
    """Number of its first environment among those of all workers (control)."""
    threads: int = 1
    """That multiply its matrices."""
    create_learner: Callable[[Policy], Callable[[list[Part]], Learned]] | None = None
    """Makes what computes gradients of the policy's weights; None: it only plays."""


class Item(NamedTuple):
    """A part of a rollout."""

    policy_version: int
    """Of the weights that it must be played with."""
    starts: list[Start] | None = None
    """Text: where its episodes start. Control: None; its share of the transitions is played."""


class Share(NamedTuple):
    """Parts of an update whose gradient is wanted."""

    policy_version: int
    parts: list[Part]


class Played(NamedTuple):
    """What came of an item."""

    trajectories: list[Trajectory]
    seconds: dict[str, float]
    """Spent in the environment and in the policy."""


class Player:
    """The inside of a worker: an environment, a policy, and the version of its weights."""

    def __init__(self, recipe: Recipe):
        blas.limit_threads(recipe.threads)
        policy = recipe.create_policy()
        if recipe.noise is not None and hasattr(policy, "reseed"):
            policy.reseed(recipe.noise)
        self.runner = RolloutRunner(
            recipe.create_env(), policy, recipe.strategy, recipe.max_steps, recipe.seed
        )
        self._first_env = recipe.first_env
        self._learner = recipe.create_learner and recipe.create_learner(policy)
        self._version: int | None = None  # none were sent yet

    def set_weights(self, version: int, tensors: Mapping[str, np.ndarray]) -> None:
        """Play with these weights from now on; none where the policy has no `set_tensors`."""
        if tensors:
            self.runner.policy.set_tensors(tensors)  # type: ignore[attr-defined]
        self._version = self.runner.policy_version = version

    def play(self, item: Item) -> Played:
        """Play an item.

        Raises:
            WorkerError: where it is for weights of another version.
        """
        self._check_version(item.policy_version)
        runner = self.runner
        before = dict(runner.seconds)
        rollout = runner.collect() if item.starts is None else runner.play_starts(item.starts)
        for trajectory in rollout:
            if trajectory.env_index is not None:
                trajectory.env_index += self._first_env
        seconds = {name: runner.seconds[name] - before[name] for name in before}
        return Played(rollout.trajectories, seconds)

    def learn(self, share: Share) -> Learned:
        """Compute the gradient of a share.

        Raises:
            WorkerError: where it is for weights of another version.
        """
        self._check_version(share.policy_version)
        assert self._learner is not None, "the recipe has no create_learner"
        return self._learner(share.parts)

    def close(self) -> None:
        """Close the environments."""
        self.runner.close()

    def _check_version(self, version: int) -> None:
        if version != self._version:
            raise WorkerError(
                f"an item for weights of version {version} came to a worker that has "
                f"version {self._version}"
            )


def check_sendable(num_workers: int, **factories: Any) -> None:
    """Refuse factories that another process cannot be given.

    Raises:
        ConfigError: naming the factory, and saying what is needed.
    """
    for name, factory in factories.items():
        try:
            ForkingPickler.dumps(factory)
        except Exception as error:  # pickling runs the object's own code
            raise ConfigError(
                f"num_workers={num_workers} sends {name} to other processes: it must be a function "
                "at the top level of a module that they can import, or functools.partial of one, "
                f"got {factory!r:.100}: {error}"
            ) from error


class _Worker:
    """A process, and the pipe to it."""

    def __init__(self, context: Any, index: int):
        self.index = index
        self.connection: Connection
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), name=f"rollouts-{index}")
        self.item: int | None = None  # the number of what it is at work on
        self.started = False
        self.process.start()
        theirs.close()

    def death(self) -> WorkerError:
        """What to raise when it is gone."""
        self.process.join(_GRACE)
        code = self.process.exitcode
        why = f"was killed by signal {-code}" if code and code < 0 else f"ended with code {code}"
        if not self.started:
            why += (
                " as it started: it imports the main script again, which must keep what it does "
                "under `if __name__ == '__main__':`, and the modules of create_env and "
                "create_policy"
            )
        return WorkerError(f"worker process {self.index} (pid {self.process.pid}) {why}")


class LocalPool:
    """Worker processes of this machine, never forked from this one.

    They end when the pool is closed or collected as garbage, when anything goes wrong in one of
    them, and when this process ends, in whatever way.

    Args:
        recipes: one for each worker.

    Raises:
        ConfigError: inside a daemonic process.
        WorkerError: where a worker does not start.
    """

    def __init__(self, recipes: Sequence[Recipe]):
        if multiprocessing.current_process().daemon:
            raise ConfigError(
                f"num_workers={len(recipes)} inside a daemonic process, which may start no others"
            )
        forkserver = "forkserver" in multiprocessing.get_all_start_methods()
        context: Any = multiprocessing.get_context("forkserver" if forkserver else "spawn")
        if forkserver:  # what is imported here already is what workers will need
            context.set_forkserver_preload([name for name in _PRELOAD if name in sys.modules])
        self._workers: list[_Worker] = []
        self._end = weakref.finalize(self, _end, self._workers)
        # multiprocessing waits for its children at exit: this comes before it, whatever was
        # imported first.
        atexit.register(self._end)
        try:
            for index in range(len(recipes)):
                self._workers.append(_Worker(context, index))
            for worker, recipe in zip(self._workers, recipes):
                self._send(worker, recipe)
                worker.item = 0
            for _ in self._workers:
                self._receive()
        except BaseException:
            self.close()
            raise

    @property
    def closed(self) -> bool:
        """Whether its processes have ended."""
        return not self._end.alive

    def set_weights(self, version: int, tensors: Mapping[str, np.ndarray]) -> None:
        """Send weights to all workers, and wait until all of them have them.

        Args:
            version: of the weights; items of another one are refused from then on.
            tensors: arrays by name, what the workers' policies take in ``set_tensors``.
        """
        arrays = {name: np.asarray(value, order="C") for name, value in tensors.items()}
        header = [(name, value.dtype.str, value.shape) for name, value in arrays.items()]
        try:
            for worker in self._workers:
                self._send(worker, (version, header))
                worker.item = 0
                for value in arrays.values():
                    self._send(worker, value)
            for _ in self._workers:
                self._receive()
        except BaseException:
            self.close()
            raise

    def run(self, items: Sequence[Item | Share]) -> list[Any]:
        """Do items, the first ones on a worker each in order, the others as workers are free.

        Returns:
            What came of each, in the order of the items.

        Raises:
            WorkerError: where a process died, or raised what cannot be sent.
            Exception: what was raised in a worker, with its traceback as the cause.
        """
        done: list[Any] = [None] * len(items)
        waiting, free = deque(range(len(items))), deque(self._workers)
        busy = 0
        try:
            while waiting or busy:
                while waiting and free:
                    worker, number = free.popleft(), waiting.popleft()
                    self._send(worker, items[number])
                    worker.item, busy = number, busy + 1
                worker, number, value = self._receive()
                done[number] = value
                free.append(worker)
                busy -= 1
        except BaseException:  # Ctrl-C too: nothing may be left under way
            self.close()
            raise
        return done

    def close(self) -> None:
        """End the processes."""
        self._end()
        atexit.unregister(self._end)

    def _send(self, worker: _Worker, message: Any) -> None:
        try:
            if isinstance(message, np.ndarray):
                worker.connection.send_bytes(message.reshape(-1).view(np.uint8).data)
            else:
                worker.connection.send(message)
        except ConnectionError:
            raise worker.death() from None

    def _receive(self) -> tuple[_Worker, int, Any]:
        """The next answer of any worker that has something to do."""
        busy = {w.connection: w for w in self._workers if w.item is not None}
        sentinels = {w.process.sentinel: w for w in self._workers}
        ready = wait([*busy, *sentinels])
        # An answer that came before its worker died is an answer.
        for worker in sorted((busy[c] for c in ready if c in busy), key=lambda w: w.index):
            try:
                kind, value = worker.connection.recv()
            except (EOFError, ConnectionError):
                raise worker.death() from None
            number, worker.item, worker.started = worker.item, None, True
            assert number is not None
            if kind == "raised":
                _raise(worker, *value)
            return worker, number, value
        raise next(sentinels[s] for s in ready if s in sentinels).death()


def _raise(worker: _Worker, error: Exception | None, text: str) -> None:
    """Raise here what was raised in a worker."""
    if error is None:
        raise WorkerError(f"worker process {worker.index} raised\n\n{text}")
    raise error from WorkerTraceback(text)


def _end(workers: Sequence[_Worker]) -> None:
    """End processes: those that wait at once, those at work after a moment."""
    for worker in workers:
        worker.connection.close()  # its end of the pipe tells an idle one
        if worker.item is not None:
            worker.process.terminate()
    for worker in workers:
        worker.process.join(_GRACE)
        if worker.process.exitcode is None:
            worker.process.kill()
            worker.process.join()


def _serve(connection: Connection) -> None:
    """Run in the process: answer messages until the other end of the pipe is closed."""
    # Ctrl-C goes to all processes of a terminal; the parent's way of ending this one is SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    player: Player | None = None
    try:
        while True:
            try:
                player, answer = _answer(connection, player)
                data = ForkingPickler.dumps(("done", answer))
            except EOFError:
                return
            except Exception as error:  # the user's code: anything can come, and is passed on
                data = ForkingPickler.dumps(("raised", _sendable(error)))
            connection.send_bytes(data)
    except ConnectionError:  # nobody is there to hear it
        return
    finally:
        if player is not None:
            player.close()


def _answer(connection: Connection, player: Player | None) -> tuple[Player, Any]:
    """Do what the next message says."""
    message = connection.recv()
    if player is None:
        return Player(message), os.getpid()
    if isinstance(message, Item):
        return player, player.play(message)
    if isinstance(message, Share):
        return player, player.learn(message)
    version, header = message
    tensors = {
        name: np.frombuffer(connection.recv_bytes(), dtype).reshape(shape)
        for name, dtype, shape in header
    }
    player.set_weights(version, tensors)
    return player, version


def _sendable(error: Exception) -> tuple[Exception | None, str]:
    """An exception, where it arrives as what it is, and its traceback as text."""
    text = "".join(traceback.format_exception(error))
    with suppress(Exception):  # an exception of the user's own may not bear it
        again = ForkingPickler.loads(ForkingPickler.dumps(error))
        if type(again) is type(error) and str(again) == str(error):
            return error, text
    return None, text
