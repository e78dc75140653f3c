"""Compiled functions that say so when they are compiled again and again.

MLX compiles a function anew for each shape of its arguments and keeps all of them: where shapes
never repeat, every call waits for the compiler and memory only grows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402
from mlx.utils import tree_flatten  # noqa: E402


def compiled(function: Callable[..., Any], setting: str, most: int = 64) -> Callable[..., Any]:
    """``mx.compile``, which warns once where the shapes of arguments are more than expected.

    Args:
        function: of arrays, and of structures of arrays.
        setting: what keeps the number of shapes small, for the warning.
        most: shapes that are expected at most.
    """
    quick = mx.compile(function)
    seen: set[tuple[Any, ...]] = set()

    def call(*args: Any) -> Any:
        if len(seen) <= most:
            arrays = dict(tree_flatten(args)).values()
            seen.add(tuple((array.shape, array.dtype) for array in arrays))
            if len(seen) > most:
                warnings.warn(
                    f"{function.__qualname__} has been compiled for {len(seen)} shapes of its "
                    f"arguments, each of which takes time and stays in memory: {setting}",
                    stacklevel=3,
                )
        return quick(*args)

    return call
