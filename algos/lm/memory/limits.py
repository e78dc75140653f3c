"""How much memory this process can have: the limits of GPU, machine, cgroup and ulimit."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402

_NONE = 2**60  # bytes; a cgroup of version 1 says about 2**63 if there is no limit


class MemoryLimit(NamedTuple):
    """How much memory a process can hold, and why no more."""

    size: int
    """In bytes, with those that the process holds already."""
    what: str
    """What the limit is, in words for a message."""


def memory_limit(root: Path = Path("/")) -> MemoryLimit | None:
    """The lowest limit that this process has at the moment; None if it is unknown.

    Args:
        root: the folder with ``proc`` and ``sys``, on Linux.
    """
    if mx.default_device() != mx.cpu:
        return _of_gpu(mx.device_info())
    if sys.platform == "linux":
        return min(_of_linux(root), default=None)
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return MemoryLimit(size, "the machine's memory")
    return None


def resident(root: Path = Path("/")) -> int:
    """Bytes of memory that this process holds, on Linux.

    Args:
        root: the folder with ``proc``.
    """
    return _table(root / "proc/self/status", 1024).get("VmRSS", 0)


def free_memory() -> float:
    """Bytes of memory that this process can still have; infinite if the limit is unknown."""
    limit = memory_limit()
    return math.inf if limit is None else limit.size - max(resident(), mx.get_active_memory())


def in_gb(size: float) -> str:
    """A number of bytes as text, in gigabytes."""
    return f"{size / 1e9:.2g} GB" if size < 1e9 else f"{size / 1e9:.1f} GB"


def _of_gpu(info: dict[str, str | int]) -> MemoryLimit | None:
    free = info.get("free_memory")  # CUDA; what all processes leave
    if free is not None:
        own = mx.get_active_memory() + mx.get_cache_memory()
        return MemoryLimit(int(free) + own, "what is free of the GPU's memory")
    most = info.get("max_recommended_working_set_size") or info.get("memory_size")  # Metal
    return (
        None if most is None else MemoryLimit(int(most), "the GPU's share of the machine's memory")
    )


def _of_linux(root: Path) -> Iterator[MemoryLimit]:
    status = _table(root / "proc/self/status", 1024)
    own = status.get("VmRSS", 0)
    machine = _table(root / "proc/meminfo", 1024)
    if "MemAvailable" in machine:
        free = machine["MemAvailable"] + machine.get("SwapFree", 0)
        yield MemoryLimit(own + free, "what is free of the machine's memory")
    for size, used, idle in _cgroups(root):
        others = max(0, used - idle - own)
        yield MemoryLimit(size - others, "the memory that the cgroup has for this process")
    ulimit = _address_space()
    if ulimit is not None:
        left = ulimit - status.get("VmSize", 0)
        yield MemoryLimit(own + left, "the address space that ulimit -v leaves")


def _cgroups(root: Path) -> Iterator[tuple[int, int, int]]:
    """For each cgroup up to the root: its limit, bytes in use, and bytes of files to drop."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            top, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top = root / "sys/fs/cgroup/memory"
            names = (
                *("memory.limit_in_bytes", "memory.usage_in_bytes"),
                "total_inactive_file",
            )
        else:
            continue
        folder = top / path.lstrip("/")
        for group in (folder, *folder.parents):
            size, used = _number(group / names[0]), _number(group / names[1])
            if size is not None and used is not None and size < _NONE:
                yield size, used, _table(group / "memory.stat", 1).get(names[2], 0)
            if group == top:
                break


def _number(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # "max" is no limit


def _table(file: Path, unit: int) -> dict[str, int]:
    """The numbers of a file with lines such as ``name: number kB`` or ``name number``."""
    try:
        lines = [line.replace(":", " ").split() for line in file.read_text().splitlines()]
    except OSError:
        return {}
    return {
        words[0]: int(words[1]) * unit for words in lines if len(words) > 1 and words[1].isdigit()
    }


def _address_space() -> int | None:
    import resource  # not on Windows

    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if soft == resource.RLIM_INFINITY else soft
