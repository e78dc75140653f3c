"""What must happen before MLX is imported: modules that need MLX call `prepare` first."""

from __future__ import annotations

import importlib.util
import sys

from textenv.algos.runtime import blas, heap
from textenv.errors import MissingDependencyError

EXTRA = "mlx" if sys.platform == "darwin" else "cpu"
"""The extra that brings MLX, and the command line, to a machine like this one."""


def prepare() -> None:
    """Put the fast BLAS in place and keep freed memory; say which extra brings MLX, if it is not.

    Raises:
        MissingDependencyError: where mlx or mlx-lm is not installed.
    """
    for package in ("mlx", "mlx_lm"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(
                package.replace("_", "-"), EXTRA, "A language model or a native trainer"
            )
    blas.load()
    heap.keep_freed_memory()
