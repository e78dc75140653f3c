"""Rollouts as files: JSON, or one trajectory a line as compressed JSON Lines.

A file is written whole or not at all, names never collide, and NaN is refused.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from textenv.algos.trajectory import Buffer, Trajectory
from textenv.errors import ConfigError, DataError, MissingFileError

SCHEMA_VERSION = 1
_HEADER = {"format": "textenv.rollout", "schema_version": SCHEMA_VERSION}
_NAME = re.compile(r"rollout_(\d+)_\d{8}_\d{6}\.")


def save_rollout(rollout: Buffer, path: str | Path) -> Path:
    """Write a rollout.

    Args:
        rollout: what to write.
        path: a name ending in ``.json`` or ``.jsonl.gz``, or a folder, in which the file is
            called ``rollout_{index}_{YYYYMMDD_HHMMSS}.json`` and the index goes on.

    Returns:
        The file written.

    Raises:
        ConfigError: for another ending.
        DataError: for a value that JSON cannot hold (NaN, an object); names the trajectory.
    """
    path = Path(path)
    rows = [_encode_trajectory(number, t) for number, t in enumerate(rollout)]
    if path.is_dir() or not path.suffix:
        path.mkdir(parents=True, exist_ok=True)
        path = _next_name(path)
    if path.name.endswith(".jsonl.gz"):
        lines = [json.dumps(_HEADER), *rows]
        data = gzip.compress("".join(line + "\n" for line in lines).encode(), mtime=0)
    elif path.suffix == ".json":
        header = json.dumps(_HEADER)[:-1]
        data = (header + ', "trajectories": [\n' + ",\n".join(rows) + "\n]}\n").encode()
    else:
        raise ConfigError(f"cannot write a rollout as {path.name!r}; known: .json, .jsonl.gz")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.saving")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def load_rollout(path: str | Path) -> Buffer:
    """Read what `save_rollout` or `textenv.wrappers.RecordTranscript` wrote.

    Returns:
        A buffer that compares equal to the one saved.

    Raises:
        MissingFileError: where there is no such file.
        DataError: for a file that is cut off, not a rollout, or of another schema version.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"rollout {path} is not a file")
    try:
        if path.name.endswith((".jsonl.gz", ".jsonl")):
            opened = gzip.open if path.suffix == ".gz" else open
            with opened(path, "rt", encoding="utf-8") as file:
                header, *rows = [json.loads(line) for line in file]
        else:
            header = json.loads(path.read_text(encoding="utf-8"))
            rows = header.get("trajectories", []) if isinstance(header, dict) else []
    except (ValueError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is cut off or not a rollout: {error}") from error
    if not isinstance(header, dict) or header.get("format") != _HEADER["format"]:
        raise DataError(f"{path} is not a rollout of textenv")
    if header.get("schema_version") != SCHEMA_VERSION:
        raise DataError(
            f"{path} has schema version {header.get('schema_version')!r}; "
            f"this textenv reads version {SCHEMA_VERSION}"
        )
    known = {field.name for field in fields(Trajectory)}
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DataError(f"{path}, trajectory {number}: expected an object, got {row!r:.40}")
        if unknown := row.keys() - known:
            raise DataError(f"{path}, trajectory {number}: unknown keys {sorted(unknown)}")
    return Buffer(Trajectory(**{k: _decode(v) for k, v in row.items()}) for row in rows)


def _next_name(folder: Path) -> Path:
    taken = [int(m.group(1)) for p in folder.iterdir() if (m := _NAME.match(p.name))]
    index = max(taken, default=-1) + 1
    return folder / f"rollout_{index}_{datetime.now():%Y%m%d_%H%M%S}.json"


def _encode_trajectory(number: int, trajectory: Trajectory) -> str:
    values = {f.name: getattr(trajectory, f.name) for f in fields(trajectory)}
    try:
        _check_keys(values)
        return json.dumps(
            {k: v for k, v in values.items() if v is not None}, default=_encode, allow_nan=False
        )
    except (TypeError, ValueError) as error:
        raise DataError(f"trajectory {number} cannot be written as JSON: {error}") from error


def _check_keys(value: Any) -> None:
    """JSON would turn a key that is a number into text."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"key {key!r} is not text")
            _check_keys(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_keys(item)


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"__ndarray__": value.tolist(), "dtype": str(value.dtype), "shape": value.shape}
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not JSON")


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if isinstance(value, dict):
        if value.keys() == {"__ndarray__", "dtype", "shape"}:
            items = np.array(value["__ndarray__"], np.dtype(value["dtype"]))
            return items.reshape(value["shape"])
        return {key: _decode(item) for key, item in value.items()}
    return value
