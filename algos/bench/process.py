"""What a measuring process reports about itself: cores, peak memory, device and BLAS."""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
from pathlib import Path
from typing import Any


def cores() -> int:
    """The number of CPUs that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def peak_megabytes(pid: int | None = None) -> float:
    """Peak memory of this process, or on Linux of another one, in megabytes.

    On Linux ``ru_maxrss`` includes the peak of the process that started this one, and VmHWM does
    not (getrusage(2), proc_pid_status(5)).
    """
    status = Path("/proc", str(pid or "self"), "status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    if pid is not None:  # not known on this system
        return 0.0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def mlx_facts() -> dict[str, Any]:
    """Peak memory, device and BLAS of a process that computes by MLX."""
    import mlx.core as mx

    from textenv.algos.runtime import blas

    if mx.default_device() == mx.cpu:
        status = blas.status()
        return _facts("cpu", f"{status.name}: {status.detail}")
    name = mx.device_info().get("device_name", mx.default_device())
    return _facts(f"{name}", "MLX's own kernels", mx.get_peak_memory())


def torch_facts() -> dict[str, Any]:
    """Peak memory, device and BLAS of a process that computes by torch."""
    import torch

    if torch.cuda.is_available():
        used = torch.cuda.max_memory_allocated()
        return _facts(torch.cuda.get_device_name(), "torch's CUDA libraries", used)
    if torch.backends.mps.is_available():  # it counts no peak; the driver's memory is close to it
        return _facts("mps", "torch's Metal kernels", torch.mps.driver_allocated_memory())
    built = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    name = built.group(1) if built else "own"
    return _facts("cpu", f"torch's {name}, {torch.get_num_threads()} thread(s)")


def host_facts(blas: str) -> dict[str, Any]:
    """Peak memory of a process that computes on the CPU, by a library that ``blas`` describes."""
    return _facts("cpu", blas)


def _facts(device: str, blas: str, on_device: int | None = None) -> dict[str, Any]:
    """The report: memory of the device if it has its own, else of the process and its workers."""
    children = [child.pid for child in multiprocessing.active_children()]
    process = sum(peak_megabytes(pid) for pid in (None, *children))
    return {
        "device": device,
        "blas": blas,
        "memory_mb": process if on_device is None else on_device / 1e6,
        "process_mb": process,
    }
