"""Reads keys of a terminal without Enter, or lines if there is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

try:
    import termios
    import tty
except ImportError:  # Windows: lines alone
    _HAS_KEYS = False
else:
    _HAS_KEYS = True

from textenv.algos.cli.shared.escape import printable

_END = "\x04"  # Ctrl-D, which a terminal gives as a key then


@contextmanager
def key_by_key() -> Iterator[None]:
    """Let the terminal give each key at once, and leave it as it was in the end.

    It is for a whole game, so that keys which are pressed before they are asked for are not lost.
    Ctrl-C stays an interrupt.
    """
    if not _on_terminal():
        yield
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal, termios.TCSADRAIN)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def read_key(question: str) -> str:
    """One key, within `key_by_key`; a line without spaces around it if there is no terminal.

    Args:
        question: what is printed before it.

    Raises:
        EOFError: at the end of the input, and for Ctrl-D.
    """
    if not _on_terminal():
        return input(question).strip()
    print(question, end="", flush=True)
    key = sys.stdin.read(1)
    if key in ("", _END):
        raise EOFError
    print(printable(key, keep=""), flush=True)
    return key


def _on_terminal() -> bool:
    return _HAS_KEYS and sys.stdin.isatty()
