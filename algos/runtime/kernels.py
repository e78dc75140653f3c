"""Where MLX compiles functions for a CPU: in a folder that only this user can write to.

MLX writes each function that it compiles to ``mlx/<version>/cpu`` in the folder for temporary
files, and loads and runs what it finds there under the function's name. On a machine of several
users that folder may be another one's. It may also be full, or read-only.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
import tempfile
import warnings
from pathlib import Path

from textenv.algos.runtime.preamble import precompile
from textenv.algos.runtime.private import cache_folder, is_ours, is_private, make_private

ROOM = 2**24
"""Bytes that must be free: a training compiles a few hundred functions, of 10 kB each."""

_NAMES = ("TMPDIR", "TMP", "TEMP", "TEMPDIR")  # in which C++ looks for the folder


def keep_private() -> None:
    """Let MLX compile where only this user writes; call it before MLX compiles anything.

    If others own or can write to the folder that MLX would take, or it cannot be used, ``TMPDIR``
    becomes ``textenv/tmp`` in the user's cache, for programs that this one starts too. If that
    cannot be used either, MLX runs functions uncompiled, and a warning says so.
    """
    if os.name != "posix" or os.environ.get("MLX_DISABLE_COMPILE") is not None:
        return
    temporary = next((os.environ[name] for name in _NAMES if os.environ.get(name)), "/tmp")
    why = _fault(Path(temporary))
    if not why:
        precompile(_folder(Path(temporary)))
        return
    try:
        own = make_private(cache_folder() / "tmp")
        other = _fault(own)
    except OSError as error:
        other = str(error)
    if not other:
        _keep_pythons_own()
        os.environ["TMPDIR"] = str(own)
        precompile(_folder(own))
        return
    os.environ["MLX_DISABLE_COMPILE"] = "1"
    if "mlx.core" in sys.modules:
        sys.modules["mlx.core"].disable_compile()
    warnings.warn(
        f"MLX runs without compiled functions, which is slower: {why}, and {other}. Set TMPDIR to "
        "a folder of your own with some room",
        RuntimeWarning,
        stacklevel=3,
    )


def _fault(temporary: Path) -> str:
    """Why MLX should not compile into a folder for temporary files; empty if it may.

    The folders that MLX would make there are made, so that nobody else can.
    """
    try:
        above = temporary.stat()
        if above.st_uid not in (0, os.geteuid()):
            return f"{temporary} belongs to another user"
        if above.st_mode & 0o022 and not above.st_mode & 0o1000:
            return f"others may rename what is in {temporary}"
        wanted = _folder(temporary)
        for folder in (*reversed(wanted.parents[:2]), wanted):
            folder.mkdir(mode=0o700, exist_ok=True)
            if not is_private(folder):
                return f"others own {folder} or may write to it"
        # Under a umask of 002 the compiler's files are the group's too, which can't reach them.
        closed = not folder.stat().st_mode & 0o077
        if not all(map(is_ours if closed else is_private, folder.iterdir())):
            return f"others own a file in {folder} or may write to it"
        if not os.access(folder, os.W_OK):
            return f"{folder} cannot be written"
        system = os.statvfs(folder)
    except OSError as error:
        return f"{temporary} cannot be used ({error})"
    if system.f_bavail * system.f_frsize < ROOM:
        return f"{temporary} is full"
    if system.f_flag & getattr(os, "ST_NOEXEC", 0):
        return f"nothing in {temporary} can be run"
    return ""


def _folder(temporary: Path) -> Path:
    """The folder in which MLX compiles, below one for temporary files."""
    return temporary / "mlx" / importlib.metadata.version("mlx") / "cpu"


def _keep_pythons_own() -> None:
    """Let `tempfile` choose its folder before ``TMPDIR`` changes, if it finds one."""
    try:
        tempfile.gettempdir()
    except OSError:
        tempfile.tempdir = None
