"""Reads datasets from JSON Lines, CSV, Parquet, or a saved Hugging Face dataset's folder."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from textenv.errors import ConfigError, DataError, MissingDependencyError, MissingFileError
from textenv.tasks.dataset import Dataset, jsonl_rows, read_utf8

# What was read and is in use, by path, split of a folder, and the state of the file.
_loaded: WeakValueDictionary[Any, Dataset] = WeakValueDictionary()


def from_path(path: str | Path, split: str | None = None) -> Dataset:
    """A dataset from a file, or from a folder that ``datasets.save_to_disk`` wrote.

    ``.csv`` and ``.parquet`` files are read as such, and files with any other ending as JSON
    Lines. If a folder holds several splits, the dataset is the whole split that ``split`` names.
    A file that is in use already is not read again, for another split either.

    Raises:
        MissingFileError: if there is no such file or folder.
        DataError: if it cannot be read; names the file, the row (counted from 1) and the key.
        MissingDependencyError: for Parquet if pyarrow is not installed, and for a folder if
            datasets is not.
    """
    path, named = Path(path), None
    read_from = path
    if path.is_dir():
        read_from = path / "state.json"
        if not read_from.is_file():  # a folder of several splits, each of which is a whole dataset
            read_from, named, split = path / "dataset_dict.json", split, None
    state = read_from.stat() if read_from.is_file() else None
    key = os.path.abspath(path), str(path), named, state and (state.st_mtime_ns, state.st_size)
    whole = _loaded.get(key)
    if whole is None:
        whole = Dataset(rows_of(path, named), name=str(path), first_row=1)
        _loaded[key] = whole
    return whole if split is None else whole.in_split(split)


def rows_of(path: str | Path, split: str | None = None) -> list[Any]:
    """The rows of a file or folder as they are written; `from_path` says what is refused."""
    path = Path(path)
    if path.is_dir():
        return _folder_rows(path, split)
    read = {".csv": _csv_rows, ".parquet": _parquet_rows}.get(path.suffix.lower(), jsonl_rows)
    if not path.is_file():
        raise MissingFileError(f"dataset {path} is not a file")
    return read(path)


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV file below its line of names; all values are text. The first is row 1."""
    data = read_utf8(path)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not UTF-8 ({error.reason})") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[dict[str, Any]] = []
    try:
        keys = next(reader, [])
        if len(set(keys)) < len(keys):
            raise DataError(f"{path}: two columns have one name: {', '.join(map(repr, keys))}")
        for values in reader:
            if not values:  # a blank line
                continue
            if len(values) != len(keys):
                raise DataError(
                    f"{path}, row {len(rows) + 1}: expected {len(keys)} values "
                    f"({', '.join(map(repr, keys))}), got {len(values)}"
                )
            rows.append(dict(zip(keys, values)))
    except csv.Error as error:  # an open quote, a field longer than the reader's limit
        raise DataError(f"{path}, row {len(rows) + 1}: not CSV: {error}") from error
    return rows


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise MissingDependencyError("pyarrow", "tasks", "a dataset in Parquet") from error
    try:
        return pyarrow.parquet.ParquetFile(path).read().to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not Parquet: {error}") from error


def _folder_rows(path: Path, split: str | None) -> list[dict[str, Any]]:
    if not (path / "state.json").is_file() and not (path / "dataset_dict.json").is_file():
        raise DataError(
            f"{path}: a folder, but not a Hugging Face dataset saved with save_to_disk "
            "(no state.json and no dataset_dict.json)"
        )
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise MissingDependencyError("datasets", "tasks", "a Hugging Face dataset") from error
    try:
        loaded = datasets.load_from_disk(str(path))
        if isinstance(loaded, datasets.DatasetDict):
            if split not in loaded:
                raise ConfigError(
                    f"{path} holds the splits {', '.join(map(repr, loaded))}, got split={split!r}: "
                    "name one, or give the folder of one as the dataset"
                )
            loaded = loaded[split]
        return loaded.to_list()
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise DataError(f"{path}: not a Hugging Face dataset: {error}") from error
