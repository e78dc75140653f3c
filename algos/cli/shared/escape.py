"""Prepares recorded text for a terminal: control characters are written as escapes."""

from __future__ import annotations

from typing import Any

import numpy as np


def printable(text: str, keep: str = "\n\t") -> str:
    r"""Write a text's control characters as escapes, except those in ``keep``.

    A model's text may contain codes that move a terminal's cursor or change its colours.

    Example:
        >>> printable("red: \x1b[31m\n")
        'red: \\x1b[31m\n'
    """
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode()
        for char in text
    )


def shown(value: Any) -> str:
    """An observation or an action as text; arrays are shortened."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, np.ndarray):
        return np.array2string(value, threshold=16, precision=4)
    if isinstance(value, dict):
        return "\n".join(f"{key}: {shown(item)}" for key, item in value.items())
    return printable(repr(value.item() if isinstance(value, np.generic) else value))


def one_line(value: Any) -> str:
    """An observation or an action as one line; line breaks in text become escapes."""
    return printable(value, keep="") if isinstance(value, str) else " ".join(shown(value).split())


def count(number: int, thing: str) -> str:
    """A number with its noun, as in "1 episode" and "2 episodes"."""
    return f"{number} {thing}{'' if number == 1 else 's'}"
