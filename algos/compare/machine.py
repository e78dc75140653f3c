"""What is known about the machine that a comparison ran on."""

from __future__ import annotations

import os
import platform
from typing import Any

from textenv.algos.runtime.versions import versions


def describe_machine(asked: int, threads: dict[str, str]) -> dict[str, Any]:
    """For the record.

    Args:
        asked: threads that were asked for.
        threads: what `use_threads` gave.
    """
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU(s)",
        "threads asked for": asked,
        "threads": threads,
        "versions": versions(),
    }
