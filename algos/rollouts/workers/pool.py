"""Gives items of work to workers, and replaces those that die or hang.

`WorkerPool` does not depend on what a worker is: `LocalPool` has processes of this machine,
`RayPool` has actors of Ray.

A worker that dies, or that takes longer than its limit of time, is ended and started again with the
present weights. Its item is done by whichever worker is free. An item that has ended three workers
is an error. A completion that was being scored when two workers ended is not scored again: its
reward function counts as failed.
"""

from __future__ import annotations

import atexit
import sys
import time
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from textenv.algos.episodes.scoring import Scored
from textenv.algos.rollouts.workers.jobs import TRIES, Job
from textenv.algos.rollouts.workers.worker import (
    GradientItem,
    Recipe,
    RolloutItem,
    WorkerError,
    WorkerTraceback,
)
from textenv.errors import TextEnvError

STARTING, MAKING, WEIGHING, WORKING, IDLE = "starting", "making", "weighing", "working", "idle"
"""What a worker is doing: it starts, makes its environment and policy, takes weights, works on an
item, or waits for one."""

_FIRST_LIMIT = 3600.0  # seconds, while it is not known how long an item takes
_LEAST_LIMIT = 600.0
_LIMIT_FACTOR = 10  # items of one rollout are about equal, but compiling and swapping take time
_START_LIMIT = 600.0  # to import a user's modules and to load a model, on a busy machine


class HungError(Exception):
    """A worker does not read what is sent to it, or stopped in the middle of an answer."""


def say(name: str, text: str) -> None:
    """Write a line to stderr, with a worker's name before it."""
    with suppress(OSError, ValueError):  # nobody reads it any longer
        sys.stderr.write(f"[{name}] {text}\n")
        sys.stderr.flush()


class Worker(ABC):
    """A worker as a pool sees it.

    Args:
        index: the number of the worker; one that takes the place of another has the same.

    Attributes:
        index: as given.
        name: what messages call it.
        phase: what it is doing, see `STARTING`.
        since: when that began, by `time.monotonic`.
        item: the number of the item that it works on.
        weights: the number of the weights that it was last sent.
        warned: whether it was said that it takes long.
    """

    def __init__(self, index: int):
        self.index, self.name = index, f"worker {index}"
        self.item: int | None = None
        self.weights = 0
        self.begin(STARTING)

    def begin(self, phase: str, item: int | None = None) -> None:
        """Note what it is doing from now on."""
        self.phase, self.item = phase, item
        self.since, self.warned = time.monotonic(), False

    @property
    @abstractmethod
    def pid(self) -> int | None:
        """The id of its process, once that is known."""

    def __str__(self) -> str:
        return f"worker process {self.index} (pid {self.pid})"

    @abstractmethod
    def send(self, message: Any, seconds: float) -> None:
        """Send it a message, for which it is waiting.

        Args:
            message: a recipe or an item.
            seconds: the longest that nothing of it may be taken.

        Raises:
            ConnectionError: if it has ended.
            HungError: if it does not read.
        """

    @abstractmethod
    def send_weights(self, version: int, weights: Any, seconds: float) -> None:
        """Send it weights, as the pool has packed them; raises what `send` raises."""

    @abstractmethod
    def receive(self, seconds: float) -> tuple[str, Any]:
        """Its answer, which has begun to come: ``"done"`` or ``"raised"``, and what.

        Raises:
            EOFError, ConnectionError: if it has ended.
            HungError: if the rest does not come.
        """

    @abstractmethod
    def death(self) -> str:
        """How it ended, in words."""

    @abstractmethod
    def kill(self) -> None:
        """End it at once, and pass on what it has printed."""

    def show_traceback(self) -> None:  # noqa: B027  (not every worker can)
        """Let it print what its threads are doing, if it can."""

    def scored(self) -> Scored | None:
        """What it was scoring when it ended, if that is known."""
        return None

    def last_lines(self) -> str:
        """The last lines that it printed, if they are known."""
        return ""


class WorkerPool(ABC):
    """Workers, the items that they work on, and the weights that they have.

    The workers end when the pool is closed or collected as garbage, when anything is raised in one
    of them, and when this process ends in any way.

    Args:
        recipes: one for each worker.
        timeout: seconds that a worker may take for an item before it is ended. None: ten times as
            long as the longest item so far, and at least ten minutes; an hour for the first.
        replace: whether a worker may be started again. If not, its end is an error.
        end: ends all workers of a list.

    Attributes:
        restarts: how often a worker was started again.

    Raises:
        WorkerError: if a worker does not start.
    """

    def __init__(
        self,
        recipes: Sequence[Recipe],
        timeout: float | None,
        replace: bool,
        end: Callable[[list[Any]], None],
    ):
        self._recipes, self._timeout, self._replace = list(recipes), timeout, replace
        self._longest = 0.0  # seconds that an item took
        self._weights: tuple[int, Any] | None = None
        self._number = 0  # of the weights that were set last
        self._jobs: list[Job] = []
        self._waiting: deque[int] = deque()
        self._done: dict[int, Any] = {}
        self._in_vain = [0] * len(recipes)  # how often each has ended before it was of use
        self.restarts = 0
        self._workers: list[Any] = []
        self._end = weakref.finalize(self, end, self._workers)
        # At exit multiprocessing waits for its children. The last function that is registered runs
        # first, so this one ends them before that, whatever was imported first.
        atexit.register(self._end)
        self._started = False
        try:
            for index in range(len(recipes)):
                self._workers.append(self._start(index))
            while any(worker.phase != IDLE for worker in self._workers):
                self._wait()
        except BaseException:
            self.close()
            raise
        self._started = True

    @abstractmethod
    def _start(self, index: int) -> Worker:
        """Start a worker."""

    @abstractmethod
    def _pack(self, tensors: Mapping[str, np.ndarray]) -> Any:
        """Weights in the form in which they are sent."""

    @abstractmethod
    def _ready(
        self, workers: Sequence[Any], busy: Sequence[Any], patience: float | None
    ) -> tuple[list[Any], list[Any]]:
        """Wait until a worker has answered or ended.

        Args:
            workers: all workers.
            busy: those that are to answer.
            patience: the most seconds to wait; None: for ever.

        Returns:
            Those whose answers come, and others that have ended.
        """

    @property
    def closed(self) -> bool:
        """Whether its workers have ended."""
        return not self._end.alive

    def set_weights(self, version: int, tensors: Mapping[str, np.ndarray]) -> None:
        """Send weights to all workers, and wait until those that are not starting have them.

        Args:
            version: the version of the weights; items for another one are refused from then on.
            tensors: arrays by name, as the workers' policies take them in ``set_tensors``. They
                are kept for workers that are started again, until `forget_weights`.
        """
        try:
            self._weights, self._number = (version, self._pack(tensors)), self._number + 1
            for worker in [w for w in self._workers if w.phase == IDLE]:
                self._prepare(worker)
            while any(worker.phase == WEIGHING for worker in self._workers):
                self._wait()
        except BaseException:
            self.close()
            raise

    def forget_weights(self) -> None:
        """Release what `set_weights` keeps, which must be called before the next `run`."""
        self._weights = None

    def run(self, items: Sequence[RolloutItem | GradientItem]) -> list[Any]:
        """Give items to the workers: the first ones in order, the others as workers become free.

        Returns:
            The answer to each, in the order of the items.

        Raises:
            WorkerError: if one item ended three workers, if workers cannot be started again, or if
                what was raised in one cannot be sent.
            Exception: what was raised in a worker, with its traceback as the cause.
        """
        self._jobs, self._done = [Job(item) for item in items], {}
        self._waiting = deque(range(len(items)))
        try:
            while len(self._done) < len(items):
                self._hand_out()
                self._wait()
        except BaseException:  # Ctrl-C too: no worker may be left at work
            self.close()
            raise
        done, self._done, self._jobs = self._done, {}, []
        return [done[number] for number in range(len(items))]

    def close(self) -> None:
        """End the workers."""
        self._end()
        atexit.unregister(self._end)

    # --- what workers are given ---

    def _hand_out(self) -> None:
        """Give the items that wait to the workers that are free."""
        for worker in list(self._workers):
            if not self._waiting:
                return
            if worker.phase != IDLE:
                continue
            if worker.weights != self._number:  # it was started again, and has none
                assert self._weights is not None, "set_weights must be called before run"
                self._prepare(worker)
                continue
            number = self._waiting.popleft()
            worker.begin(WORKING, number)
            self._try(worker, worker.send, self._jobs[number].item, self._limit(worker))

    def _prepare(self, worker: Worker) -> None:
        """Send a worker the present weights, if it has others."""
        if self._weights is None or worker.weights == self._number:
            worker.begin(IDLE)
            self._in_vain[worker.index] = 0
            return
        worker.begin(WEIGHING)
        worker.weights = self._number
        version, weights = self._weights
        self._try(worker, worker.send_weights, version, weights, self._limit(worker))

    def _try(self, worker: Worker, send: Callable[..., None], *arguments: Any) -> None:
        """Send something to a worker, which may have ended or stopped."""
        try:
            send(*arguments)
        except ConnectionError:
            self._lost(worker, worker.death())
        except HungError:
            self._overdue(worker)

    # --- what comes from them ---

    def _wait(self) -> None:
        """Wait for answers, ends and limits of time, and deal with those that came."""
        workers = list(self._workers)
        busy = [worker for worker in workers if worker.phase != IDLE]
        answered, ended = self._ready(workers, busy, self._patience(busy))
        for worker in answered:  # which counts even if it died after that
            self._take(worker)
        for worker in ended:
            self._lost(worker, worker.death())
        now = time.monotonic()
        for worker in [w for w in self._workers if w.phase != IDLE]:
            spent, limit = now - worker.since, self._limit(worker)
            if spent >= limit:
                self._overdue(worker)
            elif spent >= limit / 5 and not worker.warned:
                worker.warned = True
                say(
                    worker.name,
                    f"(pid {worker.pid}) has been {worker.phase} for {spent:.3g} s; it is ended "
                    f"after {limit:g} s",
                )

    def _patience(self, busy: Sequence[Worker]) -> float | None:
        """Seconds until a limit of time must be looked at; None: there is none."""
        now = time.monotonic()
        moments = [
            worker.since + self._limit(worker) * (1 if worker.warned else 1 / 5) for worker in busy
        ]
        return max(0.0, min(moments) - now) if moments else None

    def _limit(self, worker: Worker) -> float:
        """How many seconds a worker may take for what it is doing."""
        if worker.phase in (STARTING, MAKING):
            return max(_START_LIMIT, self._timeout or 0.0)
        if self._timeout is not None:
            return self._timeout
        if not self._longest:
            return _FIRST_LIMIT
        return max(_LEAST_LIMIT, _LIMIT_FACTOR * self._longest)

    def _take(self, worker: Worker) -> None:
        """Take a worker's answer."""
        try:
            kind, value = worker.receive(self._limit(worker))
        except (EOFError, ConnectionError):
            self._lost(worker, worker.death())
            return
        except HungError:
            self._overdue(worker)
            return
        if kind == "raised":
            _raise(worker, *value)
        if worker.phase == STARTING:
            worker.begin(MAKING)
            self._try(worker, worker.send, self._recipes[worker.index], self._limit(worker))
        elif worker.phase == WORKING:
            assert worker.item is not None
            self._done[worker.item] = value
            self._longest = max(self._longest, time.monotonic() - worker.since)
            worker.begin(IDLE)
        else:
            self._prepare(worker)

    def _overdue(self, worker: Worker) -> None:
        """End a worker that takes too long."""
        worker.show_traceback()
        setting = "" if worker.phase in (STARTING, MAKING) else " (worker_timeout)"
        self._lost(worker, f"did not answer within {self._limit(worker):g} s{setting}")

    def _lost(self, worker: Worker, how: str) -> None:
        """Start a worker again, and let its item be done again.

        Raises:
            WorkerError: if it cannot be started again, or its item must not be tried again.
        """
        worker.kill()
        if worker.phase in (STARTING, MAKING):
            how += (
                " as it started: it imports the main script again, which must keep what it does "
                "under `if __name__ == '__main__':`, and the modules of create_env and "
                "create_policy"
            )
        said = worker.last_lines()
        cause = WorkerTraceback(f"{worker}, its last lines", said) if said else None
        self._in_vain[worker.index] += worker.phase not in (IDLE, WORKING)
        if not self._started or self._in_vain[worker.index] >= TRIES:
            raise WorkerError(f"{worker} {how}") from cause
        if not self._replace:
            raise WorkerError(
                f"{worker} {how}, and the episodes of its environments are lost with it"
            ) from cause
        again = "it is started again"
        if worker.item is not None:
            job = self._jobs[worker.item]
            try:
                job.failed(str(worker), how, worker.scored())
            except WorkerError as error:
                raise error from cause
            self._waiting.appendleft(worker.item)
            again += ", and its part is done again"
        say(worker.name, f"(pid {worker.pid}) {how}; {again}")
        self.restarts += 1
        self._workers[self._workers.index(worker)] = self._start(worker.index)


def _raise(worker: Worker, error: Exception | None, text: str) -> None:
    """Raise here what was raised in a worker."""
    if error is None:
        raise WorkerError(f"{worker} raised\n\n{text}")
    if isinstance(error, TextEnvError) and len(error.args) == 1:  # shown without its notes
        error.args = (f"{error} (in {worker})",)
    else:
        error.add_note(f"raised in {worker}")
    raise error from WorkerTraceback(str(worker), text)
