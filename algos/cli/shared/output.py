"""Output that a training outlives: a reader that leaves, a terminal that is closed, a full disk."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO


@contextmanager
def lasting_output() -> Iterator[None]:
    """A block in which standard output and standard error may be lost without an error.

    As soon as one of them cannot be written to, it leads to nowhere for the rest of the program, so
    that ``textenv train | head -5`` trains to the end.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Lasting(stream) for stream in before)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class _Lasting:
    """A stream of text whose writes never fail."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text, or lose it."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Write what waits, or lose it."""
        self._try(self._stream.flush)

    def _try(self, act: Callable[[], Any]) -> None:
        try:
            act()
        except OSError:
            number = self._number()
            if number is None:
                raise
            # What waits in the stream goes the same way, at the exit too.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)

    def _number(self) -> int | None:
        """The file descriptor; None if the stream is not a file of the system."""
        try:
            return self._stream.fileno()
        except (OSError, io.UnsupportedOperation):
            return None
