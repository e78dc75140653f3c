"""Folders for compiled code, which only this user can write to: what lies in them is run."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

_OF_OTHERS = 0o022  # the group and others may write


def cache_folder() -> Path:
    """The folder for what is compiled, ``textenv`` in the user's cache.

    ``XDG_CACHE_HOME`` names the cache, if it is an absolute path; else it is ``~/.cache``.

    Raises:
        OSError: if the folder cannot be made, or is another user's.
    """
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    cache = given if given.is_absolute() else Path(os.path.expanduser("~/.cache"))
    if not cache.is_absolute():
        raise FileNotFoundError(errno.ENOENT, "there is no home folder", str(cache))
    return make_private(cache / "textenv")


def make_private(folder: Path) -> Path:
    """Make a folder of mode 0700, and the missing ones above it, and return it.

    A folder of ours that others could write to is closed to them, and emptied: they may have put
    something there.

    Raises:
        OSError: if it cannot be made, or is another user's; names it.
    """
    for place in (*reversed(folder.parents), folder):
        if not place.exists():
            place.mkdir(mode=0o700, exist_ok=True)
    state = folder.stat()
    if state.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "it belongs to another user", str(folder))
    if state.st_mode & 0o077:
        folder.chmod(0o700)
    if state.st_mode & _OF_OTHERS:
        for entry in folder.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    return folder


def is_ours(path: Path) -> bool:
    """Whether this is a file or a folder of this user's, and no link."""
    state = path.lstat()
    is_link = (state.st_mode & 0o170000) == 0o120000
    return state.st_uid == os.geteuid() and not is_link


def is_private(path: Path) -> bool:
    """Whether this is a file or a folder of ours, no link, that nobody else may write to."""
    return is_ours(path) and not path.lstat().st_mode & _OF_OTHERS
