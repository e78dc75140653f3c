"""Recorded text as a terminal can bear it."""

from __future__ import annotations

from typing import Any

import numpy as np


def printable(text: str, keep: str = "\n\t") -> str:
    r"""A text whose control characters, ``keep`` aside, are written as escapes.

    What a model wrote may hold the codes that move a terminal's cursor or colour it.

    Example:
        >>> printable("red: \x1b[31m\n")
        'red: \\x1b[31m\n'
    """
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode()
        for char in text
    )


def shown(value: Any) -> str:
    """An observation or an action: text as it is, numbers in short."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, np.ndarray):
        return np.array2string(value, threshold=16, precision=4)
    if isinstance(value, dict):
        return "\n".join(f"{key}: {shown(item)}" for key, item in value.items())
    return printable(repr(value.item() if isinstance(value, np.generic) else value))


def one_line(value: Any) -> str:
    """The same in one line, its line breaks as escapes."""
    return printable(value, keep="") if isinstance(value, str) else " ".join(shown(value).split())


def count(number: int, thing: str) -> str:
    """So many things, as "1 episode" and "2 episodes"."""
    return f"{number} {thing}{'' if number == 1 else 's'}"
