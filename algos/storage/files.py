"""Saves and loads rollouts as files: their names, and the choice of the format.

A file is written completely or not at all, names never collide, and NaN is refused. A new format
is one module with ``prepare`` and ``read``, and one line in `FORMATS`.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import ModuleType

from textenv.algos.episodes.trajectory import Buffer
from textenv.algos.storage.checks import check_rollout
from textenv.algos.storage.replacing import write_whole
from textenv.errors import ConfigError, DataError, MissingFileError, StorageError, unknown

# ending -> the module of this folder that writes and reads it
FORMATS = {
    "json": "format_json",
    "jsonl.gz": "format_json",
    "parquet": "format_parquet",
    "minari": "format_minari",
}
_NAME = re.compile(r"rollout_(\d+)_\d{8}_\d{6}\.(.+)")
_RESERVED = re.compile(r"\.rollout_(\d+)\.saving")


def save_rollout(rollout: Buffer, path: str | Path, format: str = "json") -> Path:
    """Write a rollout to a file.

    Args:
        rollout: the rollout to write.
        path: a file name that ends in one of `FORMATS`, or a folder. In a folder the file is
            called ``rollout_{index}_{YYYYMMDD_HHMMSS}.{format}``; the index follows the highest
            one there, even if other processes write to the same folder.
        format: one of `FORMATS`, if ``path`` is a folder.

    Returns:
        The file that was written.

    Raises:
        ConfigError: if the ending or the format is not known.
        DataError: for a value that cannot be written (NaN, an object); names the trajectory.
        MissingDependencyError: if the library that the format needs is not installed.
        StorageError: if the disk is full, or the folder cannot be written to.
    """
    path = Path(path)
    ending = _ending(path)
    if (path.is_dir() and ending != "minari") or not path.suffix:
        if format not in FORMATS:
            raise ConfigError(unknown("format", format, FORMATS))
        check_folder(path)
        write = _module(format).prepare(rollout)
        with _no_room_is_told(path):
            path.mkdir(parents=True, exist_ok=True)
            with _reserved_index(path) as (index, staging):
                name = f"rollout_{index}_{datetime.now():%Y%m%d_%H%M%S}.{format}"
                write(staging / name)
                os.replace(staging / name, path / name)
        return path / name
    if ending is None:
        known = ", ".join(f".{known}" for known in FORMATS)
        raise ConfigError(f"cannot write a rollout as {path.name!r}; known: {known}")
    write = _module(ending).prepare(rollout)
    if path.is_dir():
        raise ConfigError(f"{path} is there already, and a dataset is not overwritten")
    with _no_room_is_told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, write)
    return path


@contextmanager
def _no_room_is_told(path: Path) -> Iterator[None]:
    """A block that writes; an error of the disk in it names the path."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"the rollout cannot be written to {path}: {error}") from error


def check_folder(path: Path) -> None:
    """Check that rollouts can be written to a folder, which need not exist.

    Raises:
        ConfigError: if it, or a part of its path, is a file; names that.
    """
    for place in (path, *path.parents):
        if place.exists() and not place.is_dir():
            raise ConfigError(f"{path} cannot be a folder of rollouts: {place} is a file")


def load_rollout(path: str | Path) -> Buffer:
    """Read a rollout that `save_rollout` or `textenv.wrappers.RecordTranscript` wrote.

    Returns:
        A buffer that compares equal to the one that was saved.

    Raises:
        MissingFileError: if the file does not exist.
        DataError: if the file is cut off, is not a rollout, or has another schema version.
    """
    path = Path(path)
    ending = _ending(path) or "json"
    if not (path.is_dir() if ending == "minari" else path.is_file()):
        what = "folder" if ending == "minari" else "file"
        raise MissingFileError(f"rollout {path} is not a {what}")
    rollout: Buffer = _module(ending).read(path)
    check_rollout(rollout, path)
    return rollout


def load_rollouts(folder: str | Path, count: int | None = None) -> list[Buffer]:
    """Read the rollouts of a folder, in the order of their index.

    Args:
        folder: the folder that `save_rollout` or ``textenv rollout`` wrote to.
        count: how many to read, from the first; None reads all.

    Raises:
        MissingFileError: if the folder does not exist.
        DataError: if it holds none, or fewer than ``count``; says both numbers.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingFileError(f"folder {folder} of rollouts is not there")
    found = sorted(
        (int(match.group(1)), path)
        for path in folder.iterdir()
        if (match := _NAME.fullmatch(path.name)) and match.group(2) in FORMATS
    )
    if not found:
        raise DataError(f"folder {folder} holds no rollout (rollout_0_20241225_143022.json, say)")
    if count is not None and len(found) < count:
        raise DataError(f"folder {folder} holds {len(found)} rollouts, and {count} are asked for")
    return [load_rollout(path) for _, path in found[:count]]


def _ending(path: Path) -> str | None:
    return next((ending for ending in FORMATS if path.name.endswith(f".{ending}")), None)


def _module(ending: str) -> ModuleType:
    return importlib.import_module(f"textenv.algos.storage.{FORMATS[ending]}")


@contextmanager
def _reserved_index(folder: Path) -> Iterator[tuple[int, Path]]:
    """Reserve the next index of a folder; yields it, with a hidden folder that reserves it."""
    index = max(_indices(folder), default=-1) + 1
    while True:
        staging = folder / f".rollout_{index}.saving"
        try:
            staging.mkdir()
        except FileExistsError:
            index += 1
            continue
        try:
            # Another process may have used this index and finished before the reservation.
            if index not in _indices(folder, besides=staging.name):
                yield index, staging
                return
        finally:
            shutil.rmtree(staging)
        index += 1


def _indices(folder: Path, besides: str = "") -> set[int]:
    """The indices that are taken."""
    names = [path.name for path in folder.iterdir() if path.name != besides]
    matches = [_NAME.match(name) or _RESERVED.match(name) for name in names]
    return {int(match.group(1)) for match in matches if match}
