"""textenv doctor: shows what is installed, and how fast this machine multiplies."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from dataclasses import dataclass

from textenv.algos.runtime import blas, heap
from textenv.algos.runtime.backend import EXTRA
from textenv.algos.runtime.versions import versions
from textenv.errors import how_to_install


@dataclass
class Args:
    """Show versions, device, BLAS and its speed, compiler."""

    seed: int = 0
    """Unused; every command has this option."""


def run(args: Args) -> int:
    """Print versions, device, BLAS and its measured rate, compiler."""
    print(
        f"{'python':<18}{platform.python_version()} on {platform.platform()}, "
        f"{os.cpu_count()} cores"
    )
    for package, version in versions().items():
        print(f"{package:<18}{version}")
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    print(
        f"{'C++ compiler':<18}{compiler or 'none: mx.compile on a CPU and the fast BLAS need one'}"
    )
    if importlib.util.find_spec("mlx") is None:
        print(f"{'device':<18}none: MLX is not installed; {how_to_install(EXTRA)}")
        return 0
    status, kept = blas.load(), heap.keep_freed_memory()
    import mlx.core as mx

    print(f"{'device':<18}{mx.default_device()}")
    print(f"{'BLAS':<18}{status.name}: {status.detail}")
    print(f"{'freed memory':<18}{'kept' if kept else 'given back'}")
    print(f"{'float32 matmul':<18}{blas.measure_gflops():.0f} GFLOP/s (1024 x 1024, median of 5)")
    return 0
