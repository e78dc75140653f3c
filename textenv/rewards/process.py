"""A process that runs reward functions, so that one that hangs can be cut off."""

from __future__ import annotations

import multiprocessing
import queue
import threading
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

from textenv.errors import ConfigError, RewardError, TextEnvError

_START_SECONDS = 120  # a machine under load, and whatever the user's module imports


class _TimedOut:
    def __repr__(self) -> str:
        return "TIMED_OUT"


TIMED_OUT = _TimedOut()
"""In the place of a reward: the function took too long."""


class Failed(NamedTuple):
    """In the place of a reward: the function raised, or gave something else."""

    message: str
    cause: BaseException | None = None


class _Call(NamedTuple):
    future: Future[Any]
    name: str
    arguments: tuple[Any, ...]
    timeout: float | None


def failure(error: Exception) -> Failed:
    """What a function's exception is in the place of its reward."""
    own = isinstance(error, TextEnvError)
    return Failed(str(error) if own else f"raised {type(error).__name__}: {error}", error)


class Worker:
    """A process that calls named functions one after another, and is killed when one hangs.

    It starts at the first call, and again after it was killed. Start-up takes about half a second
    on two cores (it imports this package and the modules of the functions), and a call some
    60 microseconds more than one in this process.

    Args:
        functions: by name; each must be one that a new process can import.

    Raises:
        ConfigError: for a function that can't be sent, or inside a daemonic process.
    """

    def __init__(self, functions: Mapping[str, Callable[..., Any]]):
        if multiprocessing.current_process().daemon:
            raise ConfigError(
                "reward_process=True needs a process of its own, and daemonic processes can have "
                "none: make the vector environment with vector_kwargs={'daemon': False}"
            )
        for name, function in functions.items():
            try:
                ForkingPickler.dumps(function)
            except Exception as error:  # pickling runs the object's own code
                raise ConfigError(
                    f"reward_process=True needs functions at the top level of a module, so that "
                    f"another process can import them; {name!r} is not: {error}"
                ) from error
        self._functions = dict(functions)
        self._calls: queue.SimpleQueue[_Call | None] | None = None  # made by the first `submit`
        self._lock = threading.Lock()  # of the process: another thread may be at a call
        self._process: Any = None
        self._connection: Any = None

    def call(self, name: str, arguments: tuple[Any, ...], timeout: float | None) -> Any:
        """What the function returns, a `Failed`, or `TIMED_OUT`."""
        if self._calls is None:
            return self._call(name, arguments, timeout)
        return self.submit(name, arguments, timeout).result()

    def submit(self, name: str, arguments: tuple[Any, ...], timeout: float | None) -> Future[Any]:
        """As `call`, after the calls that were submitted before, while this thread goes on."""
        if self._calls is None:
            self._calls = queue.SimpleQueue()
            weakref.finalize(self, self._calls.put, None)
            # A daemon: a function that hangs does not keep the program from its end.
            told = self._calls, weakref.ref(self)
            threading.Thread(target=_do_calls, args=told, name="rewards", daemon=True).start()
        call = _Call(Future(), name, arguments, timeout)
        self._calls.put(call)
        return call.future

    def _call(self, name: str, arguments: tuple[Any, ...], timeout: float | None) -> Any:
        with self._lock:
            if self._process is None:
                self._start()
            process, connection = self._process, self._connection
        try:
            connection.send((name, arguments))
            if not connection.poll(timeout):
                self._stop()
                return TIMED_OUT
            returned, value = connection.recv()
        except (EOFError, ConnectionError):
            process.join()
            code = process.exitcode
            self._stop()
            return Failed(f"ended its process with exit code {code}")
        return value if returned else Failed(value)

    def close(self) -> None:
        """Kill the process, and cancel what was submitted; the next call starts another."""
        while self._calls is not None and not self._calls.empty():
            with suppress(queue.Empty):  # the thread was faster
                call = self._calls.get_nowait()
                if call is not None:
                    call.future.cancel()
        self._stop()

    def _stop(self) -> None:
        with self._lock:
            if self._process is not None:
                self._killer()
                # The connection is closed once no thread has it any more.
                self._process = self._connection = None

    def _start(self) -> None:
        # Never fork: a child of a process with threads, or with MLX in use, can hang.
        ways = multiprocessing.get_all_start_methods()
        context: Any = multiprocessing.get_context(
            "forkserver" if "forkserver" in ways else "spawn"
        )
        connection, theirs = context.Pipe()
        process = context.Process(
            target=_serve, args=(theirs, self._functions), name="rewards", daemon=True
        )
        process.start()
        theirs.close()
        killer = weakref.finalize(self, _kill, process)
        try:
            ready = connection.poll(_START_SECONDS) and connection.recv()
        except (EOFError, ConnectionError):
            ready = False
        if not ready:
            killer()
            raise RewardError(
                "the process of reward_process=True did not start: it imports the main script "
                "again, which must keep what it does under `if __name__ == '__main__':`, and the "
                "modules of the reward functions"
            )
        self._process, self._connection, self._killer = process, connection, killer


def _do_calls(calls: queue.SimpleQueue[_Call | None], ref: weakref.ReferenceType[Worker]) -> None:
    """Run in a thread: do calls in turn, until there is no worker."""
    while (call := calls.get()) is not None:
        worker = ref()
        if worker is not None and call.future.set_running_or_notify_cancel():
            try:
                call.future.set_result(worker._call(call.name, call.arguments, call.timeout))
            except Exception as error:  # it is raised where the result is asked for
                call.future.set_exception(error)
        del worker


def _kill(process: Any) -> None:
    process.kill()
    process.join()


def _serve(connection: Any, functions: Mapping[str, Callable[..., Any]]) -> None:
    """Run in the process: answer calls until the other end is closed."""
    connection.send(True)
    while True:
        try:
            name, arguments = connection.recv()
        except EOFError:
            return
        try:
            answer = (True, functions[name](*arguments))
            data = ForkingPickler.dumps(answer)
        except Exception as error:  # the user's code: anything can come, and is passed on
            data = ForkingPickler.dumps((False, failure(error).message))
        connection.send_bytes(data)
