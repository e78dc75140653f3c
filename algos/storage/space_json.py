"""Describes Gymnasium spaces as JSON, so that files can say what observations and actions are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.spaces import Space

from textenv.algos.storage.codec import FAULTS
from textenv.errors import ConfigError, DataError
from textenv.spaces import UnicodeText

LARGEST_SPACE = 2**26
"""Numbers of an observation or an action."""


def describe_space(space: Space) -> dict[str, Any]:
    """Describe a space as JSON.

    The bounds of a Box are one number if all are equal, and nested lists otherwise. An infinite
    bound is ``"inf"`` or ``"-inf"``, which ``float`` understands.

    Raises:
        ConfigError: for a space of a kind that is not known here; names it.
    """
    for kind, (known, describe, _) in _KINDS.items():
        if type(space) is known:
            return {"type": kind, **describe(space)}
    raise ConfigError(
        f"a space of {type(space).__name__} cannot be described as JSON; known: {', '.join(_KINDS)}"
    )


def make_space(description: Any) -> Space:
    """Make the space that `describe_space` described.

    Raises:
        DataError: if this is not the description of a space.
    """
    kind = description.get("type") if isinstance(description, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise DataError(f"not the description of a space: {description!r:.80}")
    try:
        shape = description.get("shape", ())
        if math.prod(shape) > LARGEST_SPACE:
            raise ValueError(f"it has more than {LARGEST_SPACE} numbers")
        return _KINDS[kind][2](description)
    except DataError:  # of a space in it
        raise
    except (AssertionError, *FAULTS) as error:
        raise DataError(f"not the description of a {kind}: {description!r:.80}: {error}") from error


def _describe_box(space: Any) -> dict[str, Any]:
    return {
        "dtype": str(space.dtype),
        "shape": list(space.shape),
        "low": _bound(space.low),
        "high": _bound(space.high),
    }


def _bound(bound: np.ndarray) -> Any:
    if bound.dtype.kind == "f" and bound.dtype.itemsize < 8:
        bound = bound.astype("U32").astype(np.float64)
    if bound.size and (bound == bound.flat[0]).all():
        return _finite(bound.flat[0].item())
    return _finite(bound.tolist())


def _finite(bound: Any) -> Any:
    if isinstance(bound, list):
        return [_finite(item) for item in bound]
    return str(bound) if bound in (float("inf"), float("-inf")) else bound


def _make_box(row: dict[str, Any]) -> Space:
    shape, dtype = tuple(row["shape"]), np.dtype(row["dtype"])
    low, high = (
        # As objects, because not every 64-bit integer survives a conversion to float.
        np.broadcast_to(np.array(row[key], object).astype(dtype).reshape(()), shape)
        if not isinstance(row[key], list)
        else np.array(row[key], object).astype(dtype).reshape(shape)
        for key in ("low", "high")
    )
    return spaces.Box(low=low, high=high, shape=shape, dtype=dtype.type)


def _describe_discrete(space: Any) -> dict[str, Any]:
    return {"n": int(space.n), "start": int(space.start), "dtype": str(space.dtype)}


def _make_discrete(row: dict[str, Any]) -> Space:
    if row["dtype"] == "int64":
        return spaces.Discrete(row["n"], start=row["start"])
    return spaces.Discrete(row["n"], start=row["start"], dtype=np.dtype(row["dtype"]).type)


def _describe_multi_discrete(space: Any) -> dict[str, Any]:
    return {
        "nvec": space.nvec.tolist(),
        "start": space.start.tolist(),
        "dtype": str(space.dtype),
    }


def _make_multi_discrete(row: dict[str, Any]) -> Space:
    dtype = np.dtype(row["dtype"]).type
    return spaces.MultiDiscrete(np.array(row["nvec"]), dtype=dtype, start=np.array(row["start"]))


def _describe_text(space: Any) -> dict[str, Any]:
    return {
        "min_length": space.min_length,
        "max_length": space.max_length,
        "charset": "".join(sorted(space.character_set)),
    }


def _make_text(row: dict[str, Any]) -> Space:
    return spaces.Text(row["max_length"], min_length=row["min_length"], charset=row["charset"])


def _make_unicode_text(row: dict[str, Any]) -> Space:
    return UnicodeText(row["max_length"], min_length=row["min_length"])


def _describe_dict(space: Any) -> dict[str, Any]:
    for key in space.spaces:
        if not isinstance(key, str):
            raise ConfigError(f"a Dict space with key {key!r}, which is not text, is not JSON")
    return {"spaces": {key: describe_space(part) for key, part in space.spaces.items()}}


def _make_dict(row: dict[str, Any]) -> Space:
    # As pairs, because Gymnasium sorts the keys of a plain dict.
    return spaces.Dict([(key, make_space(part)) for key, part in row["spaces"].items()])  # type: ignore[arg-type]


_Kind = tuple[type, Callable[[Any], dict[str, Any]], Callable[[dict[str, Any]], Space]]
_KINDS: dict[str, _Kind] = {
    "Box": (spaces.Box, _describe_box, _make_box),
    "Discrete": (spaces.Discrete, _describe_discrete, _make_discrete),
    "MultiDiscrete": (spaces.MultiDiscrete, _describe_multi_discrete, _make_multi_discrete),
    "MultiBinary": (
        spaces.MultiBinary,
        lambda space: {"shape": list(space.shape)},
        lambda row: spaces.MultiBinary(_size(row["shape"])),
    ),
    "Text": (spaces.Text, _describe_text, _make_text),
    "UnicodeText": (
        UnicodeText,
        lambda space: {"min_length": space.min_length, "max_length": space.max_length},
        _make_unicode_text,
    ),
    "Dict": (spaces.Dict, _describe_dict, _make_dict),
    "Tuple": (
        spaces.Tuple,
        lambda space: {"spaces": [describe_space(part) for part in space.spaces]},
        lambda row: spaces.Tuple([make_space(part) for part in row["spaces"]]),
    ),
}


def _size(shape: list[int]) -> Any:
    """The ``n`` of a MultiBinary: a number for one dimension, else the shape."""
    return shape[0] if len(shape) == 1 else shape
