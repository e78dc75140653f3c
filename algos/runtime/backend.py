"""Prepares the process for MLX; call `prepare` before `import mlx`."""

from __future__ import annotations

import importlib.util
import sys

from textenv.algos.runtime import blas, heap, kernels
from textenv.errors import MissingDependencyError

EXTRA = "mlx" if sys.platform == "darwin" else "cpu"
"""The extra that installs MLX and the command line on a machine like this one."""


def prepare() -> None:
    """Put the fast BLAS in place, keep compiled code private, and freed memory in the process.

    Raises:
        MissingDependencyError: if mlx or mlx-lm is not installed; names the extra to install.
    """
    for package in ("mlx", "mlx_lm"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(
                package.replace("_", "-"), EXTRA, "A language model or a native trainer"
            )
    blas.load()
    kernels.keep_private()
    heap.keep_freed_memory()
