"""Nested values as a `State`: dicts, lists and tuples of numbers, texts and arrays."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from textenv.algos.storage.checkpoints.state import State
from textenv.errors import DataError

_TREE = "tree"
# What JSON has no form for becomes an object of one key.
_ARRAY, _TEXTS, _NUMBER = "__array__", "__texts__", "__number__"
_TUPLE, _DEQUE, _DICT = "__tuple__", "__deque__", "__dict__"
_NUMBERS = "biuf"  # of NumPy's dtypes: bool, integers, floats


def to_state(tree: Any) -> State:
    """Nested values as a state, which `from_state` turns into equal ones of the same types.

    Args:
        tree: None, True, False, Python's or NumPy's numbers and texts, arrays of these, and dicts,
            lists, tuples and deques of all of them. Arrays are copied.

    Raises:
        DataError: for anything else; says where it stands.
    """
    arrays: dict[str, np.ndarray] = {}
    return State(arrays, {_TREE: _encode(tree, _TREE, arrays)})


def from_state(state: State) -> Any:
    """The values that `to_state` was given.

    Raises:
        DataError: if it did not make this state.
    """
    try:
        return _decode(state.value(_TREE), state.arrays)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"not a state of nested values: {error!r:.200}") from error


def _encode(value: Any, place: str, arrays: dict[str, np.ndarray]) -> Any:
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is dict:
        if all(type(key) is str for key in value) and not _is_marked(value):
            return {key: _encode(item, f"{place}/{key}", arrays) for key, item in value.items()}
        pairs = [list(pair) for pair in value.items()]
        return {_DICT: _encode(pairs, place, arrays)}
    if kind in (list, tuple, deque):
        items = [_encode(item, f"{place}/{i}", arrays) for i, item in enumerate(value)]
        if kind is list:
            return items
        return {_TUPLE: items} if kind is tuple else {_DEQUE: [value.maxlen, items]}
    if kind is np.ndarray or isinstance(value, np.generic):
        dtype = value.dtype
        if dtype.kind in _NUMBERS and dtype.itemsize <= 8:
            if isinstance(value, np.generic):
                # JSON's NaN has no bits of its own, of which NumPy's may have others.
                bits = dtype.kind == "f" and np.isnan(value)
                return {_NUMBER: [dtype.name, value.tobytes().hex() if bits else value.item()]}
            name = place
            while name in arrays:  # a key may have a slash in it
                name += "~"
            arrays[name] = np.array(value, dtype.newbyteorder("="))
            return {_ARRAY: name}
        if dtype.kind == "U":
            shape = None if isinstance(value, np.generic) else list(value.shape)
            return {_TEXTS: [shape, np.ravel(value).tolist()]}
    raise DataError(f"{place}: {value!r:.80} ({kind.__name__}) cannot be part of a checkpoint")


def _decode(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_decode(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if not _is_marked(value):
        return {key: _decode(item, arrays) for key, item in value.items()}
    ((mark, held),) = value.items()
    return _DECODERS[mark](held, arrays)


def _number(held: Any, _: Any) -> Any:
    name, number = held
    dtype = np.dtype(name)
    if dtype.kind == "f" and type(number) is str:
        (nan,) = np.frombuffer(bytes.fromhex(number), dtype)
        return nan
    if dtype.kind not in _NUMBERS or type(number) not in (bool, int, float):
        raise ValueError(f"{number!r:.40} of {name!r:.40} is not a number")
    return np.array(number, dtype)[()]


def _texts(held: Any, _: Any) -> Any:
    shape, items = held
    if shape is None:
        return np.str_(*items)
    return np.array(items, np.str_).reshape(shape)


def _deque(held: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    most, items = held
    return deque(_decode(items, arrays), maxlen=most)


_DECODERS: dict[str, Callable[[Any, Mapping[str, np.ndarray]], Any]] = {
    _ARRAY: lambda held, arrays: np.array(arrays[held]),
    _NUMBER: _number,
    _TEXTS: _texts,
    _TUPLE: lambda held, arrays: tuple(_decode(held, arrays)),
    _DEQUE: _deque,
    _DICT: lambda held, arrays: dict(map(tuple, _decode(held, arrays))),
}


def _is_marked(value: dict[Any, Any]) -> bool:
    """Whether a dict looks like what stands for something that JSON has no form for."""
    return len(value) == 1 and str(next(iter(value))).startswith("__")
