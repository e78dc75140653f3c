"""Copies chosen rows of mlx-lm's own caches, of any kind."""

from __future__ import annotations

import copy
from typing import Any

from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402


def take_rows(value: Any, rows: mx.array, count: int) -> Any:
    """A copy of a cache, or of a structure of caches, whose row i is row ``rows[i]``.

    Args:
        value: a cache of mlx-lm. An array whose first axis has ``count`` entries has one entry for
            each row. What is no array, such as a number of tokens, holds for all rows.
        rows: (B,) which rows, in order; a row may be taken many times.
        count: how many rows there are.
    """
    if isinstance(value, mx.array):
        return value[rows] if value.ndim and value.shape[0] == count else value
    if isinstance(value, (list, tuple)):
        return type(value)(take_rows(item, rows, count) for item in value)
    if isinstance(value, dict):
        return {key: take_rows(item, rows, count) for key, item in value.items()}
    if hasattr(value, "__dict__"):
        copied = copy.copy(value)
        copied.__dict__ = take_rows(vars(value), rows, count)
        return copied
    return value
