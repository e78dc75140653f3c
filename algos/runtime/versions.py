"""Versions of the libraries that matter here."""

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
    """Versions of what matters here, for those that are installed."""
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
