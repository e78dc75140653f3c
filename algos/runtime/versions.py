"""Versions of this package and of the libraries that results depend on."""

from __future__ import annotations

import importlib.metadata
from functools import cache

PACKAGES = (
    "textenv",
    "gymnasium",
    "numpy",
    "mlx",
    "mlx-lm",
    "transformers",
    "torch",
    "stable-baselines3",
)


def versions() -> dict[str, str]:
    """The version of each of `PACKAGES` that is installed, by name."""
    return dict(_found())


@cache
def _found() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
