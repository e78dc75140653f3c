"""Runs verifiers that use the parsers of other libraries in a process, with a limit of time.

A parser may take a completion such as ``9**9**9**9`` for a number to compute, which never ends and
which no signal stops. `is_bounded` refuses the plain cases before a parser sees them. For all
others, one process does the calls of all environments, and it is killed if a call takes too long.

That process is not made by `multiprocessing`: it must not import the user's main script, and
processes of a vector environment must be able to start it too.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing.connection import Connection, Pipe
from multiprocessing.reduction import ForkingPickler
from typing import Any

from textenv.rewards.process import _START_SECONDS, TIMED_OUT, Failed, Worker, answer_of, failure

__all__ = [
    "DEFAULT_SECONDS",
    "MOST_SECONDS",
    "TIMED_OUT",
    "Failed",
    "Limited",
    "is_bounded",
    "run_limited",
]

DEFAULT_SECONDS = 10.0
"""Seconds that one call of such a verifier may take, if no ``reward_timeout`` is given."""

MOST_SECONDS = 1_000_000
"""The longest time limit that can be set: the system's clocks take no much longer one."""

_LONGEST = 2**17  # characters
_LARGEST_EXPONENT = 4  # digits, of an exponent that is a power itself
_TOO_LARGE = re.compile(
    r"\d[eE][+-]?\d{5,}"  # 1e999999
    r"|(?:\*\*|\^)[\s({+-]*\d{5}"  # 2**99999
    r"|\d{1000}"
)
_TOWER = re.compile(r"(?:\*\*|\^)[\s({+-]*(\d+)\s*(?:\*\*|\^)[\s({+-]*(\d+)")  # the 3s of 2**3**3
_SCRIPT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from textenv.rewards.limits import serve; serve(int(sys.argv[1]))"
)


def is_bounded(text: str) -> bool:
    """Whether a text is short, and has no number in it that is too large to compute with."""
    if len(text) > _LONGEST or _TOO_LARGE.search(text):
        return False
    towers = ((max(1, int(low)), int(high)) for low, high in _TOWER.findall(text))
    return all(high * math.log10(low) <= _LARGEST_EXPONENT for low, high in towers)


def run_limited(function: Callable[..., Any], arguments: tuple[Any, ...], seconds: float) -> Any:
    """Call a function in the process; returns what it returned, a `Failed`, or `TIMED_OUT`.

    What ``function.prepare(*arguments)`` does, and the imports, do not count against the seconds.

    Args:
        function: a function at the top level of a module of an installed package.
        arguments: its arguments.
        seconds: how long the call may take.
    """
    return _process(os.getpid()).call("", (function, arguments, seconds), seconds)


class Limited:
    """A reward function that is called in that process, with the interface of a `Worker`.

    What ``function.require()`` raises is raised by each call, without the process.

    Args:
        function: a function at the top level of a module of an installed package.
    """

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    def call(self, name: str, arguments: tuple[Any, ...], timeout: float | None) -> Any:
        """Call the function, and return its outcome."""
        return self.submit(name, arguments, timeout).result()

    def submit(self, name: str, arguments: tuple[Any, ...], timeout: float | None) -> Future[Any]:
        """Queue a call behind those of all environments; returns the future with its outcome."""
        getattr(self._function, "require", _nothing)()
        seconds = DEFAULT_SECONDS if timeout is None else timeout
        process = _process(os.getpid())
        return process.submit("", (self._function, arguments, seconds), seconds)


class _Process(subprocess.Popen):  # type: ignore[type-arg]
    """A process with the names of multiprocessing's."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._made_by = os.getpid()

    def kill(self) -> None:
        """End the process, unless this is a fork of the one that started it."""
        if os.getpid() == self._made_by:
            super().kill()

    def join(self) -> None:
        """Wait for its end."""
        if os.getpid() == self._made_by:
            self.wait()

    @property
    def exitcode(self) -> int | None:
        """The exit code; None while it runs."""
        return self.returncode


class _Verifying(Worker):
    """A worker that calls any function of an installed package."""

    _no_start = "the process of verifiers did not start: see its message above"

    def __init__(self) -> None:
        super().__init__({}, checked=False)

    def _launch(self) -> tuple[Any, Any]:
        connection, theirs = Pipe()
        with theirs:
            number = theirs.fileno()
            command = [sys.executable, "-c", _SCRIPT, str(number), json.dumps(sys.path)]
            process = _Process(command, stdin=subprocess.DEVNULL, pass_fds=[number])
        return process, connection

    def _comes(self, connection: Any, timeout: float | None) -> bool:
        if not connection.poll(_START_SECONDS):
            return False
        connection.recv()  # it is prepared: the clock starts
        return connection.poll(timeout)


@functools.cache
def _process(of: int) -> _Verifying:
    """The process that serves the process with this id; a fork must not use its parent's."""
    return _Verifying()


def serve(number: int) -> None:
    """Answer calls until the other end of the connection is closed; what the process runs."""
    with contextlib.suppress(ConnectionError):  # nobody is left who asks
        _serve(Connection(number))


def _serve(connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    connection.send(True)
    while True:
        try:
            _, (function, arguments, seconds) = connection.recv()  # this imports the function
            getattr(function, "prepare", _nothing)(*arguments)
        except EOFError:
            return
        except Exception as error:  # an import or the preparation may raise anything
            answer = ForkingPickler.dumps((False, failure(error).message))
            connection.send(True)
        else:
            connection.send(True)
            # If nobody is left who could kill this process, the system ends it.
            signal.setitimer(signal.ITIMER_REAL, seconds + 5)
            answer = answer_of(function, arguments)
            signal.setitimer(signal.ITIMER_REAL, 0)
        connection.send_bytes(answer)


def _nothing(*_: Any) -> None:
    """Prepare nothing."""
