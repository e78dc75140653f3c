"""Ends a command when Ctrl-C or the system asks for it: after its step or its file, or at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, what ends a job, and a terminal that is closed."""

_STDERR = 2


class Stopped(KeyboardInterrupt):
    """A signal asked the program to end.

    Args:
        number: the signal.

    Attributes:
        signal: the signal.
        exit_code: of a program that the signal ended.
    """

    def __init__(self, number: int):
        self.signal = signal.Signals(number)
        self.exit_code = 128 + number
        super().__init__(self.signal.name)


class StopSignals:
    """While this is open, the `SIGNALS` raise `Stopped`, or wait for the end of a step.

    Signals that the program was started to ignore (as by nohup) stay ignored. Only the main thread
    can take signals: in another one, everything stays as it is.

    Attributes:
        requested: the signal that `deferring` held back; None if there was none.
    """

    def __init__(self) -> None:
        self.requested: Stopped | None = None
        self._before: dict[int, Any] = {}
        self._stop: Callable[[], None] | None = None
        self._saying = ""

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before.clear()

    @contextmanager
    def deferring(self, stop: Callable[[], None], saying: str) -> Iterator[None]:
        """A block in which the first signal only calls a function; the next one raises `Stopped`.

        Args:
            stop: called by the first signal.
            saying: what the first signal prints: what is done before the end.
        """
        self._stop, self._saying = stop, saying
        try:
            yield
        finally:
            self._stop = None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        stopped, stop = Stopped(number), self._stop
        if stop is None:
            raise stopped
        self._stop, self.requested = None, stopped
        # The interrupted code may be in the middle of a print, which allows no other.
        with suppress(OSError):  # nobody may be there to read it
            line = f"\n{stopped}: {self._saying}; once more stops at once\n"
            os.write(_STDERR, line.encode())
        stop()
