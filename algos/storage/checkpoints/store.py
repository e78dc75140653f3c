"""Writes checkpoints to a folder and reads them back.

A checkpoint is a folder ``step-00000020`` with ``arrays.safetensors``, ``state.json`` and
``manifest.json``, which has the size and the SHA-256 of the others. It appears whole or not at all:
it is written beside its place, everything is synced to the disk, and then it is renamed. Nothing
that is read is executed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from textenv.algos.runtime import blas
from textenv.algos.runtime.versions import versions
from textenv.algos.storage.checkpoints.state import State
from textenv.algos.storage.codec import FAULTS
from textenv.errors import DataError, MissingFileError, StorageError

CHECKPOINTS = "checkpoints"
"""The folder of a run's checkpoints, in the folder of the run."""
ARRAYS, VALUES, MANIFEST = "arrays.safetensors", "state.json", "manifest.json"

_FORMAT, _VERSION = "textenv.checkpoint", 1
_NAME = re.compile(r"step-(\d{8,})")
_HIDDEN = ".step-"  # what is being written or removed
_CHUNK = 2**24  # bytes that are hashed and written at a time
_TYPES = {
    "bool": "BOOL",
    **{f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"U{bits}" for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"F{bits}" for bits in (16, 32, 64)},
}


class Manifest(NamedTuple):
    """What a checkpoint is of."""

    step: int
    """After how many steps it was written."""
    config: dict[str, Any]
    """The settings of the training."""
    versions: dict[str, str]
    """The versions of this package and of the libraries that results depend on."""
    blas: dict[str, str]
    """What multiplied matrices on the CPU."""
    files: dict[str, dict[str, Any]]
    """The ``size`` and the ``sha256`` of each file."""


class Checkpoint(NamedTuple):
    """A checkpoint that was read, and found to be as it was written."""

    path: Path
    manifest: Manifest
    state: State


def write_checkpoint(
    folder: Path,
    step: int,
    state: State,
    config: Mapping[str, Any],
    keep: int = 2,
    best_step: int | None = None,
) -> Path:
    """Write a checkpoint, and remove those that are not to be kept.

    One of the same step is replaced.

    Args:
        folder: the folder of a run's checkpoints; it is made if it is not there.
        step: how many steps there have been.
        state: what to write.
        config: the settings of the training, as values of JSON.
        keep: how many of the newest stay.
        best_step: the step of the best evaluation; a checkpoint of that step stays too.

    Returns:
        The checkpoint's folder.

    Raises:
        StorageError: if it cannot be written; those that were there stay as they were.
        DataError: for an array or a value that cannot be written; names it.
    """
    place = folder / f"step-{step:08d}"
    staged = folder / f"{_HIDDEN}{step:08d}.saving"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_hidden(folder)
        staged.mkdir()
        files = {
            ARRAYS: _write(staged / ARRAYS, _array_chunks(state.arrays)),
            VALUES: _write(staged / VALUES, [_as_json(state.values)]),
        }
        facts = {
            "format": _FORMAT,
            "format_version": _VERSION,
            "step": step,
            "files": files,
            "versions": versions(),
            "blas": {"name": blas.status().name, "detail": blas.status().detail},
            "config": dict(config),
        }
        _write(staged / MANIFEST, [_as_json({**facts, "sha256": _hash(facts)}, indent=1)])
        _sync_folder(staged)
        if place.exists():
            os.rename(place, folder / f"{_HIDDEN}{step:08d}.old")
        os.rename(staged, place)
        _sync_folder(folder)
        _prune(folder, keep, best_step)
        _remove_hidden(folder)
    except OSError as error:
        shutil.rmtree(staged, ignore_errors=True)
        raise StorageError(
            f"the checkpoint of step {step} cannot be written to {folder}: {error}"
        ) from error
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    return place


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, the oldest first; none if there is no such folder.

    A link is not one of them: checkpoints are removed, and what a link leads to is not ours.
    """
    if not folder.is_dir():
        return []
    named = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    return sorted((p for p in named if p.is_dir() and not p.is_symlink()), key=step_of)


def step_of(path: Path) -> int:
    """The step of a checkpoint, by the name of its folder."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise DataError(f"{path} is not a checkpoint: its name is not like step-00000020")
    return int(match.group(1))


def newest(path: Path) -> Path:
    """The newest checkpoint.

    Args:
        path: the folder of a run, that of its checkpoints, or a checkpoint, which is then meant.

    Raises:
        MissingFileError: if there is none; says where it was looked for.
    """
    if _NAME.fullmatch(path.name) and (path / MANIFEST).exists():
        return path
    found = checkpoints(path / CHECKPOINTS) or checkpoints(path)
    if found:
        return found[-1]
    if not path.exists():
        raise MissingFileError(f"{path} is not there: name the folder of a run, or a checkpoint")
    raise MissingFileError(f"{path} has no checkpoint: {path / CHECKPOINTS} is empty or not there")


def read_manifest(path: Path) -> Manifest:
    """What a checkpoint is of, without reading it.

    Raises:
        DataError: if the checkpoint or its manifest is broken.
    """
    try:
        facts = _from_json(path, MANIFEST)
        known = {"format": _FORMAT, "format_version": _VERSION}
        for name, expected in known.items():
            if facts.get(name) != expected:
                raise _broken(path, MANIFEST, f"{name} {expected}", repr(facts.get(name))[:80])
        if facts.pop("sha256", None) != _hash(facts):
            raise _broken(path, MANIFEST, "the content that its sha256 is of", "another")
        found = Manifest(*(facts[name] for name in Manifest._fields))
        if set(found.files) != {ARRAYS, VALUES}:
            raise _broken(path, MANIFEST, f"files {ARRAYS} and {VALUES}", ", ".join(found.files))
        if found.step != step_of(path):
            raise _broken(path, MANIFEST, f"of step {step_of(path)}", repr(found.step)[:80])
        texts = [*found.versions.values(), found.blas["name"], found.blas["detail"]]
        texts += [file["sha256"] for file in found.files.values()]
        sizes = [file["size"] for file in found.files.values()]
        kinds = {type(text) for text in texts}, {type(size) for size in sizes}
        if kinds != ({str}, {int}) or not isinstance(found.config, dict):
            raise _broken(path, MANIFEST, "a manifest", "values of other types")
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _broken(path, MANIFEST, "a manifest", repr(error)) from error
    return found


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint, and check that it is as it was written.

    Args:
        path: its folder, see `newest`.

    Raises:
        DataError: if it is broken: which file, what was expected, what came, and which checkpoint
            there is before it. That one is not taken by itself.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    manifest = read_manifest(path)
    for name, facts in manifest.files.items():
        _check_file(path, name, facts)
    try:
        arrays = load_file(path / ARRAYS)
    except (SafetensorError, OSError, *FAULTS) as error:
        raise _broken(path, ARRAYS, "safetensors", str(error)) from error
    return Checkpoint(path, manifest, State(arrays, _from_json(path, VALUES)))


def _check_file(path: Path, name: str, facts: Mapping[str, Any]) -> None:
    digest, size = hashlib.sha256(), 0
    try:
        with (path / name).open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
    except OSError as error:
        raise _broken(path, name, f"{facts['size']} bytes", error.strerror or "none") from error
    if size != facts["size"]:
        raise _broken(path, name, f"{facts['size']} bytes", f"{size}")
    if digest.hexdigest() != facts["sha256"]:
        raise _broken(path, name, f"the sha256 {facts['sha256']}", digest.hexdigest())


def _broken(path: Path, name: str, expected: str, came: str) -> DataError:
    """The error for a broken file, which says what the user can do."""
    before = [other for other in checkpoints(path.parent) if step_of(other) < step_of(path)]
    if before:
        advice = f"name the checkpoint before it to go on from that: {before[-1]}"
    else:
        advice = "there is no checkpoint before it"
    return DataError(
        f"the checkpoint {path} is broken: {name} should be {expected}, got {came}; {advice}"
    )


def _from_json(path: Path, name: str) -> dict[str, Any]:
    try:
        found = json.loads((path / name).read_text(encoding="utf-8"))
    except OSError as error:
        raise _broken(path, name, "a file", error.strerror or "none") from error
    except (ValueError, RecursionError) as error:
        raise _broken(path, name, "JSON", str(error)) from error
    if not isinstance(found, dict):
        raise _broken(path, name, "an object of JSON", f"a {type(found).__name__}")
    return found


def _as_json(values: Mapping[str, Any], indent: int | None = None) -> bytes:
    """Values as JSON, without a line's end: if the last byte is missing, it is no JSON."""
    try:
        return json.dumps(values, indent=indent).encode()
    except (TypeError, ValueError):
        for name, value in values.items():
            try:
                json.dumps(value)
            except (TypeError, ValueError) as error:
                raise DataError(f"the value {name!r} cannot be written as JSON: {error}") from error
        raise


def _hash(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _array_chunks(arrays: Mapping[str, np.ndarray]) -> Iterable[memoryview | bytes]:
    """Arrays as the bytes of a safetensors file, without a copy of those that are contiguous."""
    header: dict[str, Any] = {}
    end = 0
    for name, array in arrays.items():
        if array.dtype.name not in _TYPES:
            raise DataError(
                f"the array {name!r} is of {array.dtype}; expected one of {', '.join(_TYPES)}"
            )
        begin, end = end, end + array.nbytes
        header[name] = {
            "dtype": _TYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for array in arrays.values():
        flat = np.asarray(array, array.dtype.newbyteorder("<")).reshape(-1)
        data = np.ascontiguousarray(flat).view(np.uint8).data
        for begin in range(0, len(data), _CHUNK):
            yield data[begin : begin + _CHUNK]


def _write(path: Path, chunks: Iterable[memoryview | bytes]) -> dict[str, Any]:
    """Write a file through to the disk; returns its size and hash."""
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    return {"size": size, "sha256": digest.hexdigest()}


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _prune(folder: Path, keep: int, best_step: int | None) -> None:
    """Remove all checkpoints but the newest, and that of the best evaluation."""
    for path in checkpoints(folder)[: -max(1, keep)]:
        if step_of(path) != best_step:
            os.rename(path, folder / f".{path.name}.old")


def _remove_hidden(folder: Path) -> None:
    """Remove what is not to be kept, and what a process that was killed had begun to write."""
    for path in folder.iterdir():
        if path.name.startswith(_HIDDEN):
            if path.is_symlink():  # what it leads to is not ours
                path.unlink()
            else:
                shutil.rmtree(path)
