"""What must happen before MLX is imported: modules that need MLX call `prepare` first."""

from __future__ import annotations

import importlib.util
import sys

from textenv.algos import blas
from textenv.errors import MissingDependencyError


def prepare() -> None:
    """Put the fast BLAS in place, and say which extra to install where MLX is missing.

    Raises:
        MissingDependencyError: where mlx or mlx-lm is not installed.
    """
    for package in ("mlx", "mlx_lm"):
        if importlib.util.find_spec(package) is None:
            extra = "mlx" if sys.platform == "darwin" else "cpu"
            raise MissingDependencyError(
                package.replace("_", "-"), extra, "A language model or a native trainer"
            )
    blas.load()
