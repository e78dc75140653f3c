"""Worker processes on this machine, never forked from this one.

Weights are in shared memory; the rest is pickled by `multiprocessing` itself, between this process
and its own children.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import struct
import sys
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np

from textenv.algos.episodes.scoring import Scored
from textenv.algos.rollouts.workers.pool import (
    IDLE,
    WEIGHING,
    HungError,
    Worker,
    WorkerPool,
    say,
)
from textenv.algos.rollouts.workers.serve import END, SHOW_TRACEBACK, Notes, serve
from textenv.algos.rollouts.workers.shared_weights import Place, SharedWeights
from textenv.algos.rollouts.workers.worker import Recipe
from textenv.errors import ConfigError

_PRELOAD = (
    "textenv.algos.lm.generation.policy",
    "textenv.algos.control.mlp_policy",
    "textenv.algos.rollouts.runner",
)
_GRACE = 3.0  # seconds in which a process may end by itself
_LAST_LINES = 60  # of what a worker printed, for messages
_LONGEST_LINE = 2**16


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


class Output:
    """Passes on what a worker prints to stderr, with the worker's name before each line.

    Args:
        connection: the end of the pipe from which the lines are read.
        name: the worker's name.
    """

    def __init__(self, connection: Connection, name: str):
        self._connection, self._name = connection, name
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        self._thread = threading.Thread(target=self._read, name=f"output of {name}", daemon=True)
        self._thread.start()

    def last(self) -> str:
        """The last lines that were printed."""
        return "\n".join(self._last)

    def end(self) -> None:
        """Wait until all is passed on that a worker printed which has ended."""
        self._thread.join(1)  # something that it has started may hold the pipe open

    def _read(self) -> None:
        rest = b""
        with self._connection:
            while data := os.read(self._connection.fileno(), _LONGEST_LINE):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._pass_on(line)
                if len(rest) >= _LONGEST_LINE:
                    self._pass_on(rest)
                    rest = b""
        if rest:
            self._pass_on(rest)

    def _pass_on(self, line: bytes) -> None:
        text = line.decode(errors="backslashreplace")
        self._last.append(text)
        say(self._name, text)


class WorkerProcess(Worker):
    """One worker process, and the pipes to it.

    Args:
        context: of `multiprocessing`.
        index: the number of the worker.
        area: where it finds weights.

    Attributes:
        process: the process.
        connection: the pipe of the messages.
    """

    def __init__(self, context: Any, index: int, area: SharedWeights):
        super().__init__(index)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  (it has no name, and is closed with this)
        self._notes = Notes(self._file.fileno())
        self.connection: Connection
        self.connection, theirs = context.Pipe()
        their_lifeline, self._lifeline = context.Pipe(duplex=False)
        output, their_output = context.Pipe(duplex=False)
        files = (Connection(os.dup(number)) for number in (self._file.fileno(), area.number))
        ends = theirs, their_lifeline, their_output, *files
        self.process = context.Process(target=serve, args=ends, name=f"rollouts-{index}")
        self.process.start()
        for end in ends:
            end.close()
        self._output = Output(output, self.name)

    @property
    def pid(self) -> int | None:
        """The id of the process."""
        return self.process.pid

    def send(self, message: Any, seconds: float) -> None:
        """Send it a message, for which it is waiting; see `Worker`."""
        self._limit(seconds)
        try:
            self.connection.send(message)
        except BlockingIOError:
            raise HungError from None

    def send_weights(self, version: int, weights: Any, seconds: float) -> None:
        """Tell it where weights are."""
        self.send((version, weights), seconds)

    def receive(self, seconds: float) -> Any:
        """Its answer, which has begun to come; see `Worker`."""
        self._limit(seconds)
        try:
            return self.connection.recv()
        except BlockingIOError:
            raise HungError from None

    def death(self) -> str:
        """How it ended."""
        self.process.join(_GRACE)
        code = self.process.exitcode
        if code is None:
            return "closed its connection"
        return f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"

    def show_traceback(self) -> None:
        """Let it print what its threads are doing; a stopped process says nothing."""
        self._signal(SHOW_TRACEBACK)
        time.sleep(0.2)

    def last_lines(self) -> str:
        """The last lines that it printed."""
        return self._output.last()

    def scored(self) -> Scored | None:
        """What it was scoring when it ended, if anything."""
        return self._notes.read()

    def kill(self) -> None:
        """End it at once, and pass on what it has printed."""
        self.process.kill()
        self.process.join()
        self.release()

    def release(self) -> None:
        """Close the pipes to a process that has ended."""
        self._output.end()
        self.connection.close()
        self._lifeline.close()

    def ask_to_end(self) -> None:
        """Let it end by itself, in time."""
        self.connection.close()  # which tells an idle one to end
        if self.phase != IDLE:
            self._signal(END)

    def _signal(self, number: int) -> None:
        if self.process.exitcode is None:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, number)

    def _limit(self, seconds: float) -> None:
        """Limit how long the system may wait for the other end of the connection."""
        whole = int(seconds)
        limit = struct.pack("ll", whole, int(1e6 * (seconds - whole)))
        with socket.socket(fileno=os.dup(self.connection.fileno())) as end:
            end.setblocking(True)  # whatever socket.setdefaulttimeout says
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)


class LocalPool(WorkerPool):
    """Worker processes of this machine, never forked from this one.

    Args:
        recipes: one for each worker.
        timeout: see `WorkerPool`.
        replace: see `WorkerPool`.

    Raises:
        ConfigError: inside a daemonic process.
        WorkerError: if a worker does not start.
    """

    def __init__(
        self, recipes: Sequence[Recipe], timeout: float | None = None, replace: bool = True
    ):
        if multiprocessing.current_process().daemon:
            raise ConfigError(
                f"num_workers={len(recipes)} inside a daemonic process, which may start no others"
            )
        forkserver = "forkserver" in multiprocessing.get_all_start_methods()
        self._context: Any = multiprocessing.get_context("forkserver" if forkserver else "spawn")
        if forkserver:  # what is imported here already is what workers will need
            self._context.set_forkserver_preload([name for name in _PRELOAD if name in sys.modules])
        self._area = SharedWeights()
        weakref.finalize(self, self._area.close)
        super().__init__(recipes, timeout, replace, end_all)

    def forget_weights(self) -> None:
        """Release what `set_weights` keeps, unless a worker that was started again still reads."""
        super().forget_weights()
        if all(worker.phase != WEIGHING for worker in self._workers):
            self._area.clear()

    def _start(self, index: int) -> WorkerProcess:
        return WorkerProcess(self._context, index, self._area)

    def _pack(self, tensors: Mapping[str, np.ndarray]) -> list[Place]:
        return self._area.write({name: np.asarray(value) for name, value in tensors.items()})

    def _ready(
        self,
        workers: Sequence[WorkerProcess],
        busy: Sequence[WorkerProcess],
        patience: float | None,
    ) -> tuple[list[WorkerProcess], list[WorkerProcess]]:
        ready = set(
            wait([*(w.connection for w in busy), *(w.process.sentinel for w in workers)], patience)
        )
        answered = [worker for worker in busy if worker.connection in ready]
        ended = [w for w in workers if w.process.sentinel in ready and w not in answered]
        return answered, ended


def end_all(workers: list[WorkerProcess]) -> None:
    """End processes: they may end by themselves for some seconds, and are killed then."""
    for worker in workers:
        worker.ask_to_end()
    until = time.monotonic() + _GRACE
    for worker in workers:
        worker.process.join(max(0.0, until - time.monotonic()))
        if worker.process.exitcode is None:
            worker.process.kill()
            worker.process.join()
        worker.release()
