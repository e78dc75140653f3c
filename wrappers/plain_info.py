"""`plain_info`: an info with text in place of what JSON cannot hold."""

from __future__ import annotations

import math
import reprlib
from typing import Any

import numpy as np

MOST_LEVELS = 100
"""How deep lists and objects may be nested in what is written to a file."""

_KINDS = "biufU"  # of NumPy's dtypes: bool, integers, floats, text
_SHORT = reprlib.Repr()
_SHORT.maxother = _SHORT.maxstring = 200


def plain_info(value: Any, depth: int = 0) -> Any:
    """Replace what JSON cannot hold by text in angle brackets, such as ``"<inf>"``.

    Nothing is trained on infos, so that no value in them need keep a rollout from being written.
    Such a value reads back as its text. Keys that are not text become text too: 3 is ``"<3>"``. An
    array with such values becomes nested lists, and what is nested deeper than `MOST_LEVELS` text.

    Args:
        value: an info, or anything in one.
        depth: how many lists and dicts it is in.

    Returns:
        A copy; arrays, NumPy's numbers and tuples stay what they are.
    """
    if isinstance(value, (dict, tuple, list)):
        if depth >= MOST_LEVELS:
            return _text(value)
        if isinstance(value, dict):
            return {
                key if isinstance(key, str) else _text(key): plain_info(item, depth + 1)
                for key, item in value.items()
            }
        items = (plain_info(item, depth + 1) for item in value)
        return tuple(items) if isinstance(value, tuple) else list(items)
    if isinstance(value, (np.ndarray, np.generic)):
        if _is_plain(value):
            return value
        return plain_info(value.tolist(), depth) if isinstance(value, np.ndarray) else _text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else _text(value)
    return value if value is None or isinstance(value, (str, bool, int)) else _text(value)


def _is_plain(value: Any) -> bool:
    dtype = value.dtype
    if dtype.kind not in _KINDS or (dtype.itemsize > 8 and dtype.kind != "U"):
        return False
    return dtype.kind != "f" or bool(np.isfinite(value).all())


def _text(value: Any) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    text = _SHORT.repr(value)
    return text if text.startswith("<") and text.endswith(">") else f"<{text}>"
