"""Weights, and their gradients, as NumPy arrays by name: how they travel between processes."""

from __future__ import annotations

from typing import Any

import numpy as np

from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402
from mlx.utils import tree_flatten  # noqa: E402


def as_numpy(tree: Any) -> dict[str, np.ndarray]:
    """A tree of arrays by name; they share its memory where they can.

    NumPy has no bfloat16: its bits travel as uint16, and ``mx.array(...).view(mx.bfloat16)`` gives
    them back.
    """
    flat: Any = tree_flatten(tree)
    return {
        name: np.asarray(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array)
        for name, array in flat
    }
