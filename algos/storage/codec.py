"""Turns trajectories into plain JSON values and back, for all formats of rollout files.

The steps of a trajectory are *packed* by column if they are alike: T observations of shape (4,)
become one array (T, 4), and T dicts of such observations become one dict of arrays.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from textenv.algos.config import check_types
from textenv.algos.episodes.trajectory import Buffer, RolloutSource, Trajectory
from textenv.algos.storage.checks import (
    BOOLS,
    COLUMNS,
    FLOAT_LISTS,
    FLOATS,
    INT_LISTS,
    INTS,
    LARGEST_TEXT,
)
from textenv.errors import DataError
from textenv.wrappers.plain_info import MOST_LEVELS, plain_info

# What Python and NumPy raise for values of another kind, nested too deeply, or too large.
FAULTS = (
    *(TypeError, ValueError, KeyError, AttributeError, OverflowError),
    *(RecursionError, MemoryError),
)

_ARRAY = {"dtype", "shape", "data"}
_SCALAR = {"dtype", "value"}
_TUPLE, _DICT = "__tuple__", "__dict__"
_KINDS = "biufU"  # of NumPy's dtypes: bool, integers, floats, text
_IN_JSON: dict[str, set[type]] = {
    "b": {bool},
    "i": {int},
    "u": {int},
    "f": {int, float},
    "U": {str},
}
# Python has a limit too, which depends on its version.
_TOO_DEEP = f"lists and objects are nested deeper than {MOST_LEVELS} levels"
_MOST_EMPTY = 2**16  # rows of an array that has no items
_DTYPE = re.compile(r"bool|u?int(8|16|32|64)|float(16|32|64)|[<>](U\d{1,9}|[iuf][1248])")


def encode_rollout(rollout: Buffer) -> list[dict[str, Any]]:
    """Encode a rollout: a row of JSON values for each trajectory.

    Raises:
        DataError: for a value that JSON cannot hold (NaN, an object), but in infos, where such a
            value is written as text (`textenv.wrappers.plain_info`); names the trajectory.
    """
    rows = []
    for number, trajectory in enumerate(rollout):
        try:
            rows.append(_encode_trajectory(trajectory))
        except (TypeError, ValueError, RecursionError) as error:
            raise DataError(f"trajectory {number} cannot be written: {error}") from error
    return rows


class EncodedOnce:
    """Encodes lists of trajectories that are asked for again and again, each list once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[list[Trajectory], list[dict[str, Any]]]] = {}

    def __call__(self, lists: Iterable[list[Trajectory]]) -> list[list[dict[str, Any]]]:
        """The rows of each list, as from `encode_rollout`.

        A list must not have changed since it was first asked for. One that is not asked for now
        is forgotten.
        """
        before, self._known = self._known, {}
        found = []
        for each in lists:  # a list that is held here keeps its id
            known = self._known.get(id(each)) or before.get(id(each))
            self._known[id(each)] = known or (each, encode_rollout(Buffer(each)))
            found.append(self._known[id(each)][1])
        return found


def decode_rollout(rows: list[Any], source: Any, where: Any) -> Buffer:
    """Decode the rollout that rows of JSON values describe.

    Args:
        rows: one for each trajectory, from `encode_rollout`.
        source: the rollout's source, from `encode_source`.
        where: the file, for messages.

    Raises:
        DataError: if a row is not a trajectory; names the file and the row.
    """
    trajectories = []
    known = {field.name for field in fields(Trajectory)}
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DataError(f"{where}, trajectory {number}: expected an object, got {row!r:.40}")
        if unknown := row.keys() - known:
            raise DataError(f"{where}, trajectory {number}: unknown keys {sorted(unknown)}")
        try:
            trajectories.append(_decode_trajectory(row))
        except FAULTS as error:
            raise DataError(f"{where}, trajectory {number}: {error}") from error
    return Buffer(trajectories, decode_source(source, where))


def encode_source(source: RolloutSource | None) -> dict[str, Any] | None:
    """Encode the source of a rollout as JSON.

    Raises:
        DataError: for a value that JSON cannot hold.
    """
    if source is None:
        return None
    try:
        return {key: encode(value) for key, value in asdict(source).items()}
    except (TypeError, ValueError) as error:
        raise DataError(f"the rollout's source cannot be written: {error}") from error


def decode_source(row: Any, where: Any) -> RolloutSource | None:
    """Decode what `encode_source` wrote.

    Raises:
        DataError: if it is not a source; names the file.
    """
    if row is None:
        return None
    known = {field.name for field in fields(RolloutSource)}
    if not isinstance(row, dict) or row.keys() - known:
        raise DataError(
            f"{where}: its source must be an object of {sorted(known)}, got {row!r:.80}"
        )
    try:
        source = RolloutSource(**{key: decode(value) for key, value in row.items()})
        check_types(source)
    except FAULTS as error:
        raise DataError(f"{where}: its source: {error}") from error
    return source


def _encode_trajectory(trajectory: Trajectory) -> dict[str, Any]:
    row = {}
    for field in fields(trajectory):
        name, value = field.name, getattr(trajectory, field.name)
        if value is not None:
            try:
                row[name] = _encoder(name)(value)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{name}: {error}") from error
    return row


def _decode_trajectory(row: dict[str, Any]) -> Trajectory:
    values: dict[str, Any] = {}
    for name, value in row.items():
        if name in COLUMNS:
            values[name] = unpack(decode_column(value))
        elif name in FLOAT_LISTS + INT_LISTS:
            if not isinstance(value, list):
                raise ValueError(f"{name} must be a list, got {value!r:.40}")
            values[name] = value
        else:
            values[name] = decode(value)
    return Trajectory(**values)


def _encoder(name: str) -> Callable[[Any], Any]:
    if name in COLUMNS:
        return lambda items: encode_column(pack(items))
    if name in FLOAT_LISTS:
        return lambda items: [_float(item) for item in items]
    if name in INT_LISTS:
        return lambda items: [int(item) for item in items]
    if name in FLOATS:
        return _float
    if name in INTS:
        return int
    if name in ("infos", "reset_info"):
        return lambda value: encode(plain_info(value))
    return bool if name in BOOLS else encode


def _float(value: Any) -> float:
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a number that JSON knows")
    return value


# --- columns ----------------------------------------------------------------------------------


def pack(items: Any) -> Any:
    """Pack items into one array, or a dict or tuple of columns; into a list if they differ."""
    items = list(items)
    first = items[0] if items else None
    if isinstance(first, (np.ndarray, np.generic)):
        alike = first.dtype.kind in _KINDS and first.dtype.isnative
        stackable = isinstance(first, np.generic) or first.ndim > 0
        if alike and stackable and all(_like(first, item) for item in items):
            return np.array(items, first.dtype).reshape(len(items), *first.shape)
    elif isinstance(first, dict) and first and not _is_marked(first):
        if all(isinstance(item, dict) and item.keys() == first.keys() for item in items):
            return {key: pack([item[key] for item in items]) for key in first}
    elif isinstance(first, tuple) and all(
        isinstance(item, tuple) and len(item) == len(first) > 0 for item in items
    ):
        return tuple(map(pack, zip(*items)))
    return items


def unpack(column: Any) -> list[Any]:
    """Give back the items of a packed column."""
    if isinstance(column, dict):
        parts = [unpack(part) for part in column.values()]
        return [dict(zip(column, values)) for values in zip(*parts, strict=True)]
    if isinstance(column, tuple):
        return list(zip(*map(unpack, column), strict=True))
    return list(column)


def encode_column(column: Any) -> Any:
    """Encode a packed column as JSON."""
    if isinstance(column, dict):
        _check_keys(column)
        return {key: encode_column(part) for key, part in column.items()}
    if isinstance(column, tuple):
        return {_TUPLE: [encode_column(part) for part in column]}
    return encode(column)


def decode_column(value: Any) -> Any:
    """Decode the packed column that `encode_column` wrote."""
    if value == {}:
        raise ValueError("a column must be an array, a list or an object of columns, got {}")
    if isinstance(value, dict) and value.keys() != _ARRAY:
        if value.keys() == {_TUPLE}:
            return tuple(decode_column(part) for part in value[_TUPLE])
        return {key: decode_column(part) for key, part in value.items()}
    return decode(value)


def outline(column: Any) -> Any:
    """Describe a packed column without its data, as JSON: ``"float32"`` or ``"list"``, say."""
    if isinstance(column, dict):
        return {key: outline(part) for key, part in column.items()}
    if isinstance(column, tuple):
        return {_TUPLE: [outline(part) for part in column]}
    return str(column.dtype) if isinstance(column, np.ndarray) else "list"


def fill(shape: Any, data: Any) -> Any:
    """Rebuild a packed column from its `outline` and the data that another format gives back.

    Args:
        shape: the outline.
        data: an array or a list for each name of the outline. For a dict the data is a dict; for
            a tuple it is a dict or a sequence with the parts in their order.
    """
    if isinstance(shape, dict) and shape.keys() == {_TUPLE}:
        pieces = data.values() if isinstance(data, dict) else data
        return tuple(fill(part, piece) for part, piece in zip(shape[_TUPLE], pieces, strict=True))
    if isinstance(shape, dict):
        return {key: fill(part, data[key]) for key, part in shape.items()}
    if shape != "list":
        return np.asarray(data, _dtype(shape, len(data)))
    return data.tolist() if isinstance(data, np.ndarray) else list(data)


def _like(first: Any, item: Any) -> bool:
    return type(item) is type(first) and item.dtype == first.dtype and item.shape == first.shape


# --- any value --------------------------------------------------------------------------------


def encode(value: Any, depth: int = 0) -> Any:
    """Encode a value as JSON; arrays, NumPy scalars and tuples become objects that say so.

    Args:
        value: the value.
        depth: how many lists and dicts it is in.

    Raises:
        TypeError: for an object of a kind that JSON cannot hold.
        ValueError: for NaN or infinity, or for values nested deeper than `MOST_LEVELS`.
    """
    if isinstance(value, np.ndarray):
        return {
            "dtype": _dtype_name(value.dtype),
            "shape": list(value.shape),
            "data": _exact(value).tolist(),
        }
    if isinstance(value, np.generic):
        return {"dtype": _dtype_name(value.dtype), "value": _exact(np.asarray(value)).tolist()}
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return _float(value)
    if depth >= MOST_LEVELS:
        raise ValueError(_TOO_DEEP)
    inner = depth + 1
    if isinstance(value, dict):
        _check_keys(value)
        row = {key: encode(item, inner) for key, item in value.items()}
        return {_DICT: row} if _is_marked(row) else row
    if isinstance(value, tuple):
        return {_TUPLE: [encode(item, inner) for item in value]}
    if isinstance(value, list):
        return [encode(item, inner) for item in value]
    raise TypeError(f"{type(value).__name__} is not JSON")


def decode(value: Any, depth: int = 0) -> Any:
    """Decode the value that `encode` wrote; ``depth`` is as there.

    Raises:
        ValueError: for a value that `encode` does not write.
    """
    if not isinstance(value, (list, dict)):
        return _float(value) if isinstance(value, float) else value  # 1e999 is JSON
    if depth >= MOST_LEVELS:
        raise ValueError(_TOO_DEEP)
    inner = depth + 1
    if isinstance(value, list):
        return [decode(item, inner) for item in value]
    keys = value.keys()
    if keys == _ARRAY:
        return _decode_array(value["data"], value["dtype"], value["shape"])
    if keys == _SCALAR:
        if isinstance(value["value"], list):
            raise ValueError(f"a NumPy scalar must be one value, got {value['value']!r:.40}")
        return _decode_array(value["value"], value["dtype"], [])[()]
    if keys == {_TUPLE}:
        return tuple(decode(item, inner) for item in value[_TUPLE])
    if keys == {_DICT}:
        value = value[_DICT]
    return {key: decode(item, inner) for key, item in value.items()}


def _decode_array(data: Any, name: Any, shape: Any) -> np.ndarray:
    """An array from its data, which must be what the dtype and the shape say.

    Raises:
        ValueError: if it is not.
    """
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"an array's shape must be a list of whole numbers, got {shape!r:.40}")
    if not math.prod(shape) and max(shape) > _MOST_EMPTY:
        raise ValueError(f"an array without items has the shape {shape}")
    items = np.array(data, object)
    dtype = _dtype(name, items.size)
    if wrong := set(map(type, items.flat)) - _IN_JSON[dtype.kind]:
        raise ValueError(f"an array of {name} holds {', '.join(kind.__name__ for kind in wrong)}")
    with np.errstate(over="ignore"):  # refused below
        array = np.array(data, dtype)
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError("an array holds NaN or an infinity")
    return array.reshape(shape)


def _check_keys(value: dict[Any, Any]) -> None:
    for key in value:
        if not isinstance(key, str):  # json.dumps would make some of them text
            raise TypeError(f"key {key!r} is not text")


def _is_marked(value: dict[str, Any]) -> bool:
    """Whether `decode` would take a dict for something else."""
    keys = value.keys()
    return keys in (_ARRAY, _SCALAR) or any(str(key).startswith("__") for key in keys)


def _dtype(name: Any, count: int) -> np.dtype:
    """The type of an array with this many items.

    Raises:
        ValueError: for another kind than numbers, bool and text, or for texts that need more memory
            than `LARGEST_TEXT`.
    """
    if not isinstance(name, str) or not _DTYPE.fullmatch(name):
        raise ValueError(f"dtype {name!r:.40} is not one of numbers, bool or text")
    dtype = np.dtype(name)
    if dtype.kind == "U" and count * dtype.itemsize > LARGEST_TEXT:
        raise ValueError(f"{count} texts of dtype {name} need more than {LARGEST_TEXT} bytes")
    return dtype


def _dtype_name(dtype: np.dtype) -> str:
    if dtype.kind not in _KINDS or (dtype.itemsize > 8 and dtype.kind != "U"):
        raise TypeError(f"an array of {dtype} is not JSON")
    return str(dtype)


def _exact(array: np.ndarray) -> np.ndarray:
    """The array; short floats as the float64 with the fewest digits that gives them back."""
    if array.dtype.kind != "f":
        return array
    if not np.isfinite(array).all():
        raise ValueError("an array holds NaN or an infinity")
    if array.dtype.itemsize == 8:
        return array
    short = array.astype("U32").astype(np.float64)
    return short if np.array_equal(short.astype(array.dtype), array) else array
