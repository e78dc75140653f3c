"""Runs reward functions in a separate process, so that a function that hangs can be stopped."""

from __future__ import annotations

import multiprocessing
import queue
import signal
import threading
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

from textenv.errors import ConfigError, RewardError, TextEnvError
from textenv.lifeline import end_with

_START_SECONDS = 120  # generous: the machine may be busy, and the user's module may import a lot


class _TimedOut:
    def __repr__(self) -> str:
        return "TIMED_OUT"


TIMED_OUT = _TimedOut()
"""Outcome of a call that took longer than its timeout."""


class Failed(NamedTuple):
    """Outcome of a call that raised an exception, or whose result is not valid."""

    message: str
    cause: BaseException | None = None


class _Call(NamedTuple):
    future: Future[Any]
    name: str
    arguments: tuple[Any, ...]
    timeout: float | None


def failure(error: BaseException) -> Failed:
    """The outcome of a call that raised ``error``."""
    own = isinstance(error, TextEnvError)
    return Failed(str(error) if own else f"raised {type(error).__name__}: {error}", error)


class Worker:
    """A process that calls named functions one after another, and is killed when a call hangs.

    The process starts at the first call, and again after it was killed. To start takes about half
    a second on two cores, because it imports this package and the modules of the functions. A call
    takes about 60 microseconds more than in the calling process.

    Args:
        functions: the functions by name. A new process must be able to import each of them.
        checked: whether daemonic processes are refused, which cannot start a process this way.

    Raises:
        ConfigError: for a function that cannot be sent to a process, or inside a daemonic process.
    """

    def __init__(self, functions: Mapping[str, Callable[..., Any]], *, checked: bool = True):
        if checked and multiprocessing.current_process().daemon:
            raise ConfigError(
                "reward_process=True starts a process, which daemonic processes are not allowed "
                "to do: make the vector environment with vector_kwargs={'daemon': False}"
            )
        for name, function in functions.items():
            try:
                ForkingPickler.dumps(function)
            except Exception as error:  # pickling runs code of the object, which may raise anything
                raise ConfigError(
                    f"reward_process=True needs functions at the top level of a module, so that "
                    f"another process can import them; {name!r} is not: {error}"
                ) from error
        self._functions = dict(functions)
        self._calls: queue.SimpleQueue[_Call | None] | None = None  # made by the first `submit`
        self._lock = threading.Lock()  # for the process: another thread may be calling it
        self._calling = threading.Lock()  # one question is answered before the next is asked
        self._process: Any = None
        self._connection: Any = None

    def call(self, name: str, arguments: tuple[Any, ...], timeout: float | None) -> Any:
        """Call a function, and return its outcome: its result, a `Failed`, or `TIMED_OUT`."""
        if self._calls is None:
            return self._call(name, arguments, timeout)
        return self.submit(name, arguments, timeout).result()

    def submit(self, name: str, arguments: tuple[Any, ...], timeout: float | None) -> Future[Any]:
        """Queue a call behind those submitted before, and return the future with its outcome."""
        if self._calls is None:
            self._calls = queue.SimpleQueue()
            weakref.finalize(self, self._calls.put, None)
            # A daemon, so that a function that hangs does not keep the program from ending.
            told = self._calls, weakref.ref(self)
            threading.Thread(target=_do_calls, args=told, name="rewards", daemon=True).start()
        call = _Call(Future(), name, arguments, timeout)
        self._calls.put(call)
        return call.future

    def __reduce__(self) -> Any:
        return type(self), (self._functions,)  # a copy starts a process of its own

    def _call(self, name: str, arguments: tuple[Any, ...], timeout: float | None) -> Any:
        with self._calling:
            return self._ask(name, arguments, timeout)

    def _ask(self, name: str, arguments: tuple[Any, ...], timeout: float | None) -> Any:
        with self._lock:
            if self._process is None:
                self._start()
            process, connection = self._process, self._connection
        message = ForkingPickler.dumps((name, arguments))  # before the process waits for it
        answered = False
        try:
            connection.send_bytes(message)
            if not self._comes(connection, timeout):
                return TIMED_OUT
            returned, value = connection.recv()
            answered = True
        except (EOFError, ConnectionError):
            process.join()
            code = process.exitcode
            return Failed(f"ended its process with exit code {code}")
        finally:
            if not answered:  # also after Ctrl-C: the next call must not get this one's answer
                self._stop()
        return value if returned else Failed(value)

    def _comes(self, connection: Any, timeout: float | None) -> bool:
        """Whether an answer comes in time."""
        return connection.poll(timeout)

    def close(self) -> None:
        """Kill the process and cancel the queued calls. The next call starts another process."""
        while self._calls is not None and not self._calls.empty():
            with suppress(queue.Empty):  # the thread took the call in the meantime
                call = self._calls.get_nowait()
                if call is not None:
                    call.future.cancel()
        self._stop()

    def _stop(self) -> None:
        with self._lock:
            if self._process is not None:
                self._killer()
                # The connection closes when no thread refers to it any more.
                self._process = self._connection = None

    def _start(self) -> None:
        process, connection = self._launch()
        killer = weakref.finalize(self, _kill, process)
        try:
            ready = connection.poll(_START_SECONDS) and connection.recv()
        except (EOFError, ConnectionError):
            ready = False
        if not ready:
            killer()
            raise RewardError(self._no_start)
        self._process, self._connection, self._killer = process, connection, killer

    _no_start = (
        "the process of reward_process=True did not start. It imports the main script again, whose "
        "actions must be under `if __name__ == '__main__':`, and it imports the modules of the "
        "reward functions"
    )

    def _launch(self) -> tuple[Any, Any]:
        """Start the process, and return it with this end of the connection to it."""
        # Never "fork": the child of a process that has threads or uses MLX can hang.
        ways = multiprocessing.get_all_start_methods()
        context: Any = multiprocessing.get_context(
            "forkserver" if "forkserver" in ways else "spawn"
        )
        connection, theirs = context.Pipe()
        their_lifeline, lifeline = context.Pipe(duplex=False)
        process = context.Process(
            target=_serve,
            args=(theirs, their_lifeline, self._functions),
            name="rewards",
            daemon=True,
        )
        process.start()
        process.lifeline = lifeline  # this process holds it as long as it has the other one
        theirs.close()
        their_lifeline.close()
        return process, connection


def _do_calls(calls: queue.SimpleQueue[_Call | None], ref: weakref.ReferenceType[Worker]) -> None:
    """Do the queued calls of a worker one after another; the target of its thread.

    It ends when None is in the queue, which is put there when the worker is collected.
    """
    while (call := calls.get()) is not None:
        worker = ref()
        if worker is not None and call.future.set_running_or_notify_cancel():
            try:
                call.future.set_result(worker._call(call.name, call.arguments, call.timeout))
            except BaseException as error:  # the future raises it when its result is requested
                call.future.set_exception(error)
        del worker


def _kill(process: Any) -> None:
    process.kill()
    process.join()


def _serve(connection: Any, lifeline: Any, functions: Mapping[str, Callable[..., Any]]) -> None:
    """Answer calls until the other end of the connection is closed; the target of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    end_with(lifeline)
    connection.send(True)
    while True:
        try:
            name, arguments = connection.recv()
        except EOFError:
            return
        connection.send_bytes(answer_of(functions[name], arguments))


def answer_of(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Call a function in its process; returns what is sent back, as bytes."""
    try:
        return ForkingPickler.dumps((True, function(*arguments)))
    except Exception as error:  # it is the user's code, which may raise anything
        return ForkingPickler.dumps((False, failure(error).message))
