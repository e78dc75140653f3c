"""Rollouts as Parquet: one row a trajectory, its steps in lists.

If all observations of the rollout are alike, they are lists of typed values (fixed-size lists of
numbers, structs, text); otherwise they are JSON. The same holds for actions. Infos are JSON. The
schema's metadata has the header of the JSON format under ``textenv.rollout``.
``pyarrow.parquet.read_table(path)`` and ``pandas.read_parquet(path)`` read such a file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from textenv.algos.episodes.trajectory import Buffer, Trajectory
from textenv.algos.storage import codec as codec
from textenv.algos.storage.format_json import check_count, check_header, make_header
from textenv.errors import DataError, MissingDependencyError

_KEY = b"textenv.rollout"
_ITEM = "final_observation"  # packed over all trajectories: each has one item


def prepare(rollout: Buffer) -> Callable[[Path], None]:
    """Encode a rollout; returns a function that writes it to a path."""
    pa, pq = _pyarrow()
    rows = codec.encode_rollout(rollout)  # for its checks, and for fields without a type
    header = make_header(rollout)
    arrays, outlines = {}, {}
    try:
        for name in [field.name for field in fields(Trajectory)]:
            arrays[name], outlines[name] = _column(pa, name, rollout, rows)
        header["columns"] = {name: value for name, value in outlines.items() if value is not None}
        table = pa.table(arrays).replace_schema_metadata({_KEY: json.dumps(header)})
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        raise DataError(f"the rollout cannot be written as Parquet: {error}") from error
    return lambda path: pq.write_table(table, path)


def read(path: Path) -> Buffer:
    """Read a rollout from its Parquet file."""
    pa, pq = _pyarrow()
    try:
        table = pq.read_table(path, partitioning=None)
        header = json.loads((table.schema.metadata or {}).get(_KEY, b"null"))
    except (pa.ArrowException, OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is cut off or not a rollout: {error}") from error
    check_header(header, path)
    check_count(header, table.num_rows, path)
    try:
        columns = {
            name: _items(pa, table[name].combine_chunks(), name, header["columns"].get(name))
            for name in table.column_names
        }
        rows = zip(*columns.values(), strict=True)
        trajectories = [Trajectory(**dict(zip(columns, row))) for row in rows]
    except (pa.ArrowException, StopIteration, RuntimeError, *codec.FAULTS) as error:
        raise DataError(f"{path} is not a rollout: {error}") from error
    return Buffer(trajectories, codec.decode_source(header.get("source"), path))


# --- one field of all trajectories --------------------------------------------------------------


def _column(pa: ModuleType, name: str, rollout: Buffer, rows: list[Any]) -> tuple[Any, Any]:
    """A field as an array of Arrow, and the outline of its items: ``"json"`` if they are text."""
    values = [getattr(trajectory, name) for trajectory in rollout]
    if plain := _plain_type(pa, name):
        return pa.array([row.get(name) for row in rows], plain), None
    if name == _ITEM or name in codec.COLUMNS:
        lists = [[value] for value in values] if name == _ITEM else values
        items = [item for steps in lists if steps is not None for item in steps]
        packed = codec.pack(items)
        array = _typed(pa, packed)
        if array is not None and name == _ITEM:
            return array, codec.outline(packed)
        if array is not None:
            lengths = [0 if steps is None else len(steps) for steps in lists]
            offsets = pa.array(np.cumsum([0, *lengths]), pa.int32())
            missing = pa.array([steps is None for steps in lists], pa.bool_())
            return pa.ListArray.from_arrays(offsets, array, mask=missing), codec.outline(packed)
    texts = [json.dumps(row[name], allow_nan=False) if name in row else None for row in rows]
    return pa.array(texts, pa.string()), "json"


def _plain_type(pa: ModuleType, name: str) -> Any:
    """Arrow's type for a field of plain values; None for other fields."""
    if name in codec.FLOAT_LISTS:
        return pa.list_(pa.float64())
    if name in codec.INT_LISTS:
        return pa.list_(pa.int64())
    if name in codec.FLOATS:
        return pa.float64()
    if name in codec.INTS:
        return pa.int64()
    if name in codec.BOOLS:
        return pa.bool_()
    return pa.string() if name == "prompt" else None


def _items(pa: ModuleType, array: Any, name: str, outline: Any) -> list[Any]:
    """The values of a field, one for each trajectory."""
    if outline is None:
        return array.to_pylist()
    if outline == "json":
        decode = _decode_column if name in codec.COLUMNS else codec.decode
        return [None if text is None else decode(json.loads(text)) for text in array.to_pylist()]
    if name == _ITEM:
        return codec.unpack(codec.fill(outline, _data(pa, array)))
    items = iter(codec.unpack(codec.fill(outline, _data(pa, array.flatten()))))
    lengths = array.value_lengths().to_pylist()
    return [None if length is None else [next(items) for _ in range(length)] for length in lengths]


def _decode_column(value: Any) -> list[Any]:
    return codec.unpack(codec.decode_column(value))


# --- packed columns -----------------------------------------------------------------------------


def _typed(pa: ModuleType, column: Any) -> Any:
    """A packed column as an array of Arrow; None if Arrow has no type for it."""
    if isinstance(column, (dict, tuple)):
        parts = column.items() if isinstance(column, dict) else enumerate(column)
        arrays = {str(name): _typed(pa, part) for name, part in parts}
        if any(array is None for array in arrays.values()):
            return None
        return pa.StructArray.from_arrays(list(arrays.values()), names=list(arrays))
    if isinstance(column, np.ndarray):
        if not all(column.shape[1:]):
            return None
        array = pa.array(np.ascontiguousarray(column).reshape(-1))
        for size in reversed(column.shape[1:]):
            array = pa.FixedSizeListArray.from_arrays(array, size)
        return array
    kinds = {type(item) for item in column}
    for kind, known in (
        (bool, pa.bool_()),
        (int, pa.int64()),
        (float, pa.float64()),
        (str, pa.string()),
    ):
        if kinds == {kind}:
            return pa.array(column, known)
    return None


def _data(pa: ModuleType, array: Any) -> Any:
    """The data that `_typed` was given, as arrays, dicts of arrays, or lists of text."""
    if pa.types.is_struct(array.type):
        names = [field.name for field in array.type]
        return {name: _data(pa, part) for name, part in zip(names, array.flatten())}
    shape = [len(array)]
    while pa.types.is_fixed_size_list(array.type):
        shape.append(array.type.list_size)
        array = array.flatten()
    if pa.types.is_string(array.type):
        return np.array(array.to_pylist()).reshape(shape) if shape[1:] else array.to_pylist()
    return array.to_numpy(zero_copy_only=False).reshape(shape)


def _pyarrow() -> tuple[ModuleType, ModuleType]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError("pyarrow", "export", "A rollout as Parquet") from error
    return pyarrow, pyarrow.parquet
