"""Prints text that is not ours: without markup, and with control characters as escapes.

Every command prints by `say`, or to a `Terminal` of `display`. Names, paths, metrics, completions
and error messages come from files and models: they may hold codes that move a terminal's cursor.
"""

from __future__ import annotations

from typing import Any, TextIO

import numpy as np


def printable(text: str, keep: str = "\n\t") -> str:
    r"""Write a text's control characters as escapes, except those in ``keep``.

    Example:
        >>> printable("red: \x1b[31m\n")
        'red: \\x1b[31m\n'
    """
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode()
        for char in text
    )


def say(text: object = "", file: TextIO | None = None) -> None:
    """Print a line; control characters are written as escapes.

    Args:
        text: the line.
        file: where to; None is standard output.
    """
    print(printable(str(text)), file=file)


def shown(value: Any) -> str:
    """An observation or an action as text; arrays are shortened."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, np.ndarray):
        return printable(np.array2string(value, threshold=16, precision=4))
    if isinstance(value, dict):
        return "\n".join(f"{printable(str(key))}: {shown(item)}" for key, item in value.items())
    return printable(repr(value.item() if isinstance(value, np.generic) else value))


def one_line(value: Any) -> str:
    """An observation or an action as one line; line breaks in text become escapes."""
    return printable(value, keep="") if isinstance(value, str) else " ".join(shown(value).split())


def count(number: int, thing: str) -> str:
    """A number with its noun, as in "1 episode" and "2 episodes"."""
    return f"{number} {thing}{'' if number == 1 else 's'}"
