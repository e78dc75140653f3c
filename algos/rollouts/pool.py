"""Starts and ends worker processes on this machine, and carries messages to them.

`LocalPool` sends messages to a `RolloutWorker` in each process. Weights travel as the bytes of
their arrays; the rest is pickled by `multiprocessing` itself, between this process and its own
children.
"""

from __future__ import annotations

import atexit
import multiprocessing
import sys
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np

from textenv.algos.rollouts.worker import GradientItem, Recipe, RolloutItem, WorkerError, serve
from textenv.errors import ConfigError

_PRELOAD = (
    "textenv.algos.lm.generation.policy",
    "textenv.algos.control.mlp_policy",
    "textenv.algos.rollouts.runner",
)
_GRACE = 3.0  # seconds in which a process may end by itself


class WorkerTraceback(Exception):
    """The traceback, as text, of what was raised in a worker process."""

    def __str__(self) -> str:
        return f"in a worker process\n\n{self.args[0]}"


def check_sendable(num_workers: int, **factories: Any) -> None:
    """Refuse factories that cannot be sent to another process.

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


class _Process:
    """One worker process, and the pipe to it."""

    def __init__(self, context: Any, index: int):
        self.index = index
        self.connection: Connection
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs,), name=f"rollouts-{index}")
        self.item: int | None = None  # the number of the item that it works on
        self.started = False
        self.process.start()
        theirs.close()

    def death(self) -> WorkerError:
        """The error to raise when the process has ended."""
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
    them, and when this process ends in any way.

    Args:
        recipes: one for each worker.

    Raises:
        ConfigError: inside a daemonic process.
        WorkerError: if a worker does not start.
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
        self._workers: list[_Process] = []
        self._end = weakref.finalize(self, _end, self._workers)
        # At exit multiprocessing waits for its children. The last function that is registered runs
        # first, so this one ends them before that, whatever was imported first.
        atexit.register(self._end)
        try:
            for index in range(len(recipes)):
                self._workers.append(_Process(context, index))
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
            version: the version of the weights; items for another one are refused from then on.
            tensors: arrays by name, as the workers' policies take them in ``set_tensors``.
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

    def run(self, items: Sequence[RolloutItem | GradientItem]) -> list[Any]:
        """Give items to the workers: the first ones in order, the others as workers become free.

        Returns:
            The answer to each, in the order of the items.

        Raises:
            WorkerError: if a process died, or raised what cannot be sent.
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
        except BaseException:  # Ctrl-C too: no worker may be left at work
            self.close()
            raise
        return done

    def close(self) -> None:
        """End the processes."""
        self._end()
        atexit.unregister(self._end)

    def _send(self, worker: _Process, message: Any) -> None:
        try:
            if isinstance(message, np.ndarray):
                worker.connection.send_bytes(message.reshape(-1).view(np.uint8).data)
            else:
                worker.connection.send(message)
        except ConnectionError:
            raise worker.death() from None

    def _receive(self) -> tuple[_Process, int, Any]:
        """The next answer of any worker that is at work."""
        busy = {w.connection: w for w in self._workers if w.item is not None}
        sentinels = {w.process.sentinel: w for w in self._workers}
        ready = wait([*busy, *sentinels])
        # An answer counts even if its worker died after it was sent.
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


def _raise(worker: _Process, error: Exception | None, text: str) -> None:
    """Raise here what was raised in a worker."""
    if error is None:
        raise WorkerError(f"worker process {worker.index} raised\n\n{text}")
    raise error from WorkerTraceback(text)


def _end(workers: Sequence[_Process]) -> None:
    """End processes: idle ones end by themselves, others are terminated, and killed at last."""
    for worker in workers:
        worker.connection.close()  # which tells an idle one to end
        if worker.item is not None:
            worker.process.terminate()
    for worker in workers:
        worker.process.join(_GRACE)
        if worker.process.exitcode is None:
            worker.process.kill()
            worker.process.join()
