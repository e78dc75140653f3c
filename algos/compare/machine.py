"""The machine of a comparison: sets threads, measures imports, describes the machine."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import time
from collections.abc import Iterable
from typing import Any

from textenv.algos.runtime import backend, blas
from textenv.algos.runtime.versions import versions

_VARIABLE = "OPENBLAS_NUM_THREADS"


def use_threads(count: int) -> dict[str, str]:
    """Let torch and MLX's matrix products use ``count`` threads.

    MLX keeps the number that it was set up with, if it was set up before.

    Returns:
        What each library computes with, in words.
    """
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = str(count)  # read once, when the BLAS is loaded
    try:
        backend.prepare()
    finally:
        if before is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = before
    status = blas.status()
    used = {"MLX": f"{status.name} ({status.detail})"}
    if importlib.util.find_spec("torch") is not None:
        import torch

        torch.set_num_threads(count)
        used["torch"] = f"{torch.get_num_threads()} thread(s)"
    return used


def import_seconds(modules: Iterable[str]) -> dict[str, float]:
    """Import those modules that are installed; returns the seconds of each, 0 if it was loaded."""
    found = {}
    for name in modules:
        if importlib.util.find_spec(name) is not None:
            began = time.perf_counter()
            importlib.import_module(name)
            found[name] = round(time.perf_counter() - began, 2)
    return found


def describe_machine(asked: int, threads: dict[str, str]) -> dict[str, Any]:
    """Describe the machine, for the record of a comparison.

    Args:
        asked: the number of threads that was asked for.
        threads: what `use_threads` returned.
    """
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU(s)",
        "threads asked for": asked,
        "threads": threads,
        "versions": versions(),
    }
