"""Workers as actors of Ray, on this machine or on a cluster.

Ray starts the processes and carries the messages. Everything else is as with processes of this
machine: Ray neither restarts an actor nor repeats a call, since that would be with the weights that
the actor began with. Weights are put into Ray's object store once for all workers.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np

from textenv.algos.rollouts.workers.pool import Worker, WorkerPool
from textenv.algos.rollouts.workers.serve import sendable
from textenv.algos.rollouts.workers.worker import (
    GradientItem,
    Recipe,
    RolloutItem,
    RolloutWorker,
)
from textenv.errors import ConfigError, MissingDependencyError

# Ray reads these when it is imported. It sends no statistics, and shows all that workers print.
_SETTINGS = {
    "RAY_DEDUP_LOGS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9",
}
_NO_CLUSTER = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""On Linux too, a Ray that is started with this listens on this machine alone."""
_LOOPBACK = "127.0.0.1"
_REACH = 10.0  # seconds in which a cluster must take a connection


class RayActor:
    """What an actor does: a `RolloutWorker`, and the messages that it answers.

    Args:
        name: the worker's name, which Ray puts before what it prints.
    """

    def __init__(self, name: str):
        self._name = name
        self._worker: RolloutWorker | None = None

    def __repr__(self) -> str:
        return self._name

    def start(self, node: str) -> tuple[str, Any]:
        """The id of this process, and whether it is on this node."""
        import ray

        return "done", (os.getpid(), ray.get_runtime_context().get_node_id() == node)

    def answer(self, message: Recipe | RolloutItem | GradientItem) -> tuple[str, Any]:
        """Do what a message asks for: ``"done"`` and the answer, or ``"raised"`` and the error."""
        try:
            if isinstance(message, Recipe):
                self._worker = RolloutWorker(message)
                return "done", None
            assert self._worker is not None
            if isinstance(message, RolloutItem):
                return "done", self._worker.play(message)
            return "done", self._worker.compute_gradient(message)
        except Exception as error:  # the user's code may raise anything, which is passed on
            return "raised", sendable(error)

    def set_weights(self, version: int, tensors: Mapping[str, np.ndarray]) -> tuple[str, Any]:
        """Take weights; as `answer`."""
        try:
            assert self._worker is not None
            self._worker.set_weights(version, tensors)
            return "done", version
        except Exception as error:
            return "raised", sendable(error)


class RayWorker(Worker):
    """An actor, as the pool sees it.

    Args:
        ray: the module.
        index: the number of the worker.

    Attributes:
        pending: the answer that will come.
    """

    def __init__(self, ray: Any, index: int):
        super().__init__(index)
        self._ray = ray
        # Ray must not repeat anything: a new actor has no weights yet. It holds no CPU, by Ray's
        # default, so that any number of workers finds a place.
        options = {"max_restarts": 0, "max_task_retries": 0, "scheduling_strategy": "SPREAD"}
        actor = ray.remote(RayActor).options(**options)
        self.actor = actor.remote(self.name)
        self._pid: int | None = None
        self._is_here = False
        self._how = "died"
        self.pending = self.actor.start.remote(ray.get_runtime_context().get_node_id())

    @property
    def pid(self) -> int | None:
        """The id of its process, once it has started."""
        return self._pid

    def send(self, message: Any, seconds: float) -> None:
        """Send it a recipe or an item."""
        self.pending = self.actor.answer.remote(message)

    def send_weights(self, version: int, weights: Any, seconds: float) -> None:
        """Send it weights that are in the object store."""
        self.pending = self.actor.set_weights.remote(version, weights)

    def receive(self, seconds: float) -> tuple[str, Any]:
        """Its answer; see `Worker`."""
        try:
            kind, value = self._ray.get(self.pending)
        except self._ray.exceptions.RayActorError as error:
            self._how = f"died: {' '.join(str(error).split())}"
            raise ConnectionError from None
        if self._pid is None:
            self._pid, self._is_here = value
        return kind, value

    def death(self) -> str:
        """How it ended, as Ray says."""
        return self._how

    def kill(self) -> None:
        """End it at once; also a stopped process, if it is on this machine."""
        with suppress(Exception):  # Ray may know already that it has died
            self._ray.kill(self.actor, no_restart=True)
        if self._pid is not None and self._is_here:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(self._pid, signal.SIGKILL)


class RayPool(WorkerPool):
    """Workers that are actors of Ray.

    If Ray is running in this process already, it is used as it is, and goes on when the pool is
    closed.

    Args:
        recipes: one for each worker.
        timeout: see `WorkerPool`.
        replace: see `WorkerPool`.
        address: of a cluster, as `ray.init` takes it. None: that of ``RAY_ADDRESS``, or else a Ray
            that is started here, for this machine alone.

    Raises:
        MissingDependencyError: without Ray.
        ConfigError: if there is no cluster at the address.
        WorkerError: if a worker does not start.
    """

    def __init__(
        self,
        recipes: Sequence[Recipe],
        timeout: float | None = None,
        replace: bool = True,
        address: str | None = None,
    ):
        self._ray, is_own = connect(address, len(recipes))
        super().__init__(recipes, timeout, replace, partial(_end, self._ray, is_own))

    def _start(self, index: int) -> RayWorker:
        return RayWorker(self._ray, index)

    def _pack(self, tensors: Mapping[str, np.ndarray]) -> Any:
        return self._ray.put({name: np.asarray(value) for name, value in tensors.items()})

    def _ready(
        self, workers: Sequence[RayWorker], busy: Sequence[RayWorker], patience: float | None
    ) -> tuple[list[RayWorker], list[RayWorker]]:
        by_answer = {worker.pending: worker for worker in busy}
        ready, _ = self._ray.wait(list(by_answer), num_returns=1, timeout=patience)
        if ready:
            ready, _ = self._ray.wait(list(by_answer), num_returns=len(by_answer), timeout=0)
        return [by_answer[answer] for answer in ready], []


def connect(address: str | None, num_workers: int) -> tuple[Any, bool]:
    """Connect this process to Ray, or start one.

    Returns:
        The module, and whether this call connected it.

    Raises:
        MissingDependencyError: without Ray.
        ConfigError: if there is no cluster at the address.
    """
    address = address or os.environ.get("RAY_ADDRESS") or None
    for name, value in (_SETTINGS if address else _SETTINGS | _NO_CLUSTER).items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError("ray", "ray", "backend='ray'") from error
    if ray.is_initialized():
        return ray, False
    settings: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": True}
    if address is None:
        cpus = max(num_workers, os.cpu_count() or 1)
        with _own_signals():
            ray.init("local", num_cpus=cpus, include_dashboard=False, **settings)
        addresses = {node["NodeManagerAddress"] for node in ray.nodes()}
        if addresses != {_LOOPBACK}:
            warnings.warn(
                f"Ray listens on {', '.join(addresses)}, where other machines may reach it, since "
                f"it was imported before: set {next(iter(_NO_CLUSTER))}=0 before that",
                RuntimeWarning,
                stacklevel=2,
            )
        return ray, True
    try:
        _check_reachable(address)
        with _own_signals():
            ray.init(address, **settings)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"ray_address={address!r}: no cluster of Ray answers: {reason}"
        ) from error
    return ray, True


def _check_reachable(address: str) -> None:
    """Raise OSError if nobody listens at a ``HOST:PORT``, for which Ray would wait a minute."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH).close()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep a handler of SIGTERM that this program has set; Ray sets one of its own."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if callable(before) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def _end(ray: Any, is_own: bool, workers: Sequence[RayWorker]) -> None:
    """End all actors, and Ray if it was started or connected for them."""
    if not ray.is_initialized():
        return
    for worker in workers:
        worker.kill()
    if is_own:
        ray.shutdown()
