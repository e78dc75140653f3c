"""A precompiled header, with which MLX compiles functions for a CPU four times as fast.

MLX writes each function that it compiles as a C++ file that includes one header of MLX, and calls
g++. Most of the compiler's time goes to that header. GCC looks for it beside the file first, and
in each place for a precompiled form of it (GCC manual, "Using Precompiled Headers"). One that was
made by another compiler, or with other options, is passed over, and functions compile as before.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shlex
import shutil
import subprocess
import time
from pathlib import Path

HEADER = Path("mlx", "backend", "cpu", "compiled_preamble.h")
OPTIONS = ("-std=c++17", "-O3", "-Wall", "-fPIC")
"""Those of MLX's own call that change what a header means to the compiler."""
ROOM = 2**27
"""Bytes that must be free; the precompiled header takes 50 MB."""

_SINCE = (0, 32)  # the MLX whose functions include the header; before, they contain it
_STALE = 600.0  # seconds after which a header that is being made is taken to be abandoned


def precompile(folder: Path) -> bool:
    """Begin to precompile the header of MLX's functions, unless it is there, and do not wait.

    The compiler goes on if this process ends. It takes about three functions' time, once on a
    machine and for a version of MLX.

    Args:
        folder: the folder that MLX compiles in, which only this user can write to.

    Returns:
        Whether the compiler was started.
    """
    header, compiler = _header(), shutil.which("g++")
    if header is None or compiler is None:
        return False
    target = folder / HEADER.with_name(f"{HEADER.name}.gch")
    made = Path(compiler).resolve().stat().st_ctime  # when this compiler was installed
    try:
        if target.exists() and target.stat().st_mtime > made:
            return False
        if shutil.disk_usage(folder).free < ROOM:
            return False
        for place in reversed(HEADER.parents[:-1]):
            (folder / place).mkdir(mode=0o700, exist_ok=True)
        part = target.with_suffix(".part")
        if part.exists() and time.time() - part.stat().st_mtime > _STALE:
            part.unlink(missing_ok=True)
        part.touch(mode=0o600, exist_ok=False)
    except FileExistsError:  # another process is at it
        return False
    command = [compiler, *OPTIONS, "-I", header.parents[3], "-x", "c++-header", header, "-o", part]
    line = shlex.join(map(str, command))
    done = shlex.join(["mv", "-f", str(part), str(target)])
    failed = shlex.join(["rm", "-f", str(part)])
    # The shell ends at once, and the compiler is no child of this process, which need not wait.
    subprocess.run(
        ["sh", "-c", f"( {line} && {done} || {failed} ) &"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        check=False,
    )
    return True


def _header() -> Path | None:
    """The header, if this is an MLX that compiles for the CPU by including it."""
    if not any(importlib.metadata.distributions(name="mlx-cpu")):
        return None
    numbers = importlib.metadata.version("mlx").split(".")[:2]
    if not all(map(str.isdecimal, numbers)) or tuple(map(int, numbers)) < _SINCE:
        return None
    spec = importlib.util.find_spec("mlx")
    for place in (spec and spec.submodule_search_locations) or ():
        header = Path(place, "include", HEADER)
        if header.is_file():
            return header
    return None
