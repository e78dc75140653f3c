"""Reads datasets from JSON Lines, CSV, Parquet, or a saved Hugging Face dataset's folder."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from textenv.errors import (
    ConfigError,
    DataError,
    MissingDependencyError,
    MissingFileError,
    TextEnvError,
)
from textenv.tasks.columns import Columns, as_example, check_columns
from textenv.tasks.dataset import Dataset, read_utf8

# What Python, Arrow and the library datasets raise for files of another content, or too large.
_FAULTS = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, NotImplementedError),
    *(ArithmeticError, RecursionError, MemoryError),
)
_BATCH = 1000  # rows of Arrow that become objects of Python at a time
# What was read and is in use, by path, split of a folder, columns, limit, and state of the file.
_loaded: WeakValueDictionary[Any, Dataset] = WeakValueDictionary()


def from_path(
    path: str | Path,
    split: str | None = None,
    columns: Columns | None = None,
    limit: int | None = None,
) -> Dataset:
    """A dataset from a file, or from a folder that ``datasets.save_to_disk`` wrote.

    ``.csv`` and ``.parquet`` files are read as such, and files with any other ending as JSON
    Lines. If a folder holds several splits, the dataset is the whole split that ``split`` names.
    A file that is in use already is not read again, for another split either.

    Args:
        path: the file or folder.
        split: as in `Dataset`.
        columns: new names for some columns, see `as_example`.
        limit: read only so many rows, the first ones; the split is one of these rows.

    Raises:
        MissingFileError: if there is no such file or folder.
        DataError: if it cannot be read; names the file, the row (counted from 1) and the key.
        MissingDependencyError: for Parquet if pyarrow is not installed, and for a folder if
            datasets is not.
    """
    check_columns(columns)
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ConfigError(f"limit must be an integer >= 1, got {limit!r}")
    path, named = Path(path), None
    read_from = path
    if path.is_dir():
        read_from = path / "state.json"
        if not read_from.is_file():  # a folder of several splits, each of which is a whole dataset
            read_from, named, split = path / "dataset_dict.json", split, None
    state = read_from.stat() if read_from.is_file() else None
    unchanged = state and (state.st_mtime_ns, state.st_size)
    naming = tuple((columns or {}).items())
    key = os.path.abspath(path), str(path), named, naming, limit, unchanged
    whole = _loaded.get(key)
    if whole is None:
        # One row after another, so that no more than these rows are in memory.
        whole = Dataset(_read(path, named, columns, limit), name=str(path), first_row=1)
        _loaded[key] = whole
    return whole if split is None else whole.in_split(split)


def read_examples(
    path: str | Path,
    split: str | None = None,
    columns: Columns | None = None,
    limit: int | None = None,
) -> list[Any]:
    """The examples of a file or folder, before `Dataset` checks them; see `from_path`."""
    return list(_read(Path(path), split, columns, limit))


def _read(
    path: Path, split: str | None, columns: Columns | None, limit: int | None
) -> Iterator[Any]:
    """The examples of a file or folder; what is no row is left for `Dataset` to refuse."""
    rows = _folder_rows(path, split, limit) if path.is_dir() else _file_rows(path, limit)
    all_text = path.suffix.lower() == ".csv"
    for number, row in enumerate(rows, start=1):
        try:
            yield as_example(row, columns, all_text) if isinstance(row, dict) else row
        except DataError as error:
            raise DataError(f"{path}, row {number}: {error}") from error


def _file_rows(path: Path, limit: int | None) -> Iterable[Any]:
    """The first rows of a file."""
    if not path.is_file():
        raise MissingFileError(f"dataset {path} is not a file")
    ending = path.suffix.lower()
    if ending == ".parquet":
        return _parquet_rows(path, limit)
    return itertools.islice((_csv_rows if ending == ".csv" else _json_rows)(path), limit)


def _json_rows(path: Path) -> Iterator[Any]:
    """What the lines of a JSON Lines file hold, each of which should be an object."""
    data = read_utf8(path)
    for number, line in enumerate(io.BytesIO(data.rstrip()), start=1):
        try:
            yield json.loads(line.decode("utf-8").rstrip("\n"))
        except UnicodeDecodeError as error:
            raise DataError(f"{path}, row {number}: not UTF-8 ({error.reason})") from error
        except (ValueError, RecursionError) as error:  # also for too many digits or levels
            raise DataError(f"{path}, row {number}: not JSON: {error}") from error


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a CSV file below its line of names; all values are text. The first is row 1."""
    data = read_utf8(path)
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not UTF-8 ({error.reason})") from error
    text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", newline="")
    reader = csv.reader(text, strict=True)
    number = 0
    try:
        keys = next(reader, [])
        if len(set(keys)) < len(keys):
            raise DataError(f"{path}: two columns have one name: {', '.join(map(repr, keys))}")
        for values in reader:
            if not values:  # a blank line
                continue
            if len(values) != len(keys):
                raise DataError(
                    f"{path}, row {number + 1}: expected {len(keys)} values "
                    f"({', '.join(map(repr, keys))}), got {len(values)}"
                )
            number += 1
            yield dict(zip(keys, values))
    except csv.Error as error:  # an open quote, a field longer than the reader's limit
        raise DataError(f"{path}, row {number + 1}: not CSV: {error}") from error


def _parquet_rows(path: Path, limit: int | None) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise MissingDependencyError("pyarrow", "tasks", "a dataset in Parquet") from error
    try:
        table = pyarrow.parquet.ParquetFile(path).read()
        for batch in table.slice(0, limit).to_batches(_BATCH):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, *_FAULTS) as error:  # text that is not UTF-8, say
        raise DataError(f"{path}: not Parquet: {error}") from error


def _folder_rows(path: Path, split: str | None, limit: int | None) -> list[dict[str, Any]]:
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
        _check_names(path)
        loaded = datasets.load_from_disk(str(path))
        if isinstance(loaded, datasets.DatasetDict):
            if split not in loaded:
                raise ConfigError(
                    f"{path} holds the splits {', '.join(map(repr, loaded))}, got split={split!r}: "
                    "name one, or give the folder of one as the dataset"
                )
            loaded = loaded[split]
        loaded.data.validate(full=True)  # Arrow reads beyond a file whose offsets are wrong
        return loaded.select(range(min(len(loaded), limit or len(loaded)))).to_list()
    except _FAULTS as error:
        if isinstance(error, TextEnvError):
            raise
        raise DataError(f"{path}: not a Hugging Face dataset: {error}") from error


def _check_names(path: Path) -> None:
    """Refuse a saved dataset that names files outside its folder, which datasets would read."""
    splits = path / "dataset_dict.json"
    places = [path] if (path / "state.json").is_file() else []
    if splits.is_file():
        places += [path / _own(path, name) for name in json.loads(splits.read_bytes())["splits"]]
    for place in places:
        for file in json.loads((place / "state.json").read_bytes())["_data_files"]:
            _own(place, file["filename"])


def _own(folder: Path, name: Any) -> str:
    """The name, if it is that of something in the folder itself."""
    if not isinstance(name, str) or name in ("", "..") or name != Path(name).name:
        raise DataError(f"{folder}: it names a file that is not in this folder: {name!r:.80}")
    return name
