"""Builds the info of a vector environment, in the form that Gymnasium's own vector forms give.

Such an info has one array over all lanes for each ``key``, and a boolean array ``_key`` that says
which lanes have the key. A lane is one environment of the vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Info = dict[str, Any]

Columns = dict[str, Any]
"""For each key a list with one value for each of some lanes, or columns again."""


class Some(list[Any]):
    """A column in which None means that the lane does not have this key."""


# Values of all other types are stored in arrays of objects.
_DTYPES: dict[type, Any] = {bool: np.bool_, int: np.int64, float: np.float64}


def from_columns(columns: Columns, lanes: Sequence[int], num_envs: int) -> Info:
    """An info with arrays over all lanes, from the values of some lanes.

    Args:
        columns: the values. A list of dicts is treated as columns of the dicts' keys.
        lanes: the lanes that have these values, in the same order.
        num_envs: number of all lanes.
    """
    info: Info = {}
    every = np.zeros(num_envs, bool)
    every[where(lanes, num_envs)] = True
    for key, values in columns.items():
        who = lanes
        if isinstance(values, dict):
            info[key] = from_columns(values, lanes, num_envs)
        elif isinstance(values[0], dict):
            info[key] = from_columns(_columns_of(values), lanes, num_envs)
        else:
            if isinstance(values, Some):
                who = [lane for lane, value in zip(lanes, values) if value is not None]
                values = [value for value in values if value is not None]
                if not values:
                    continue
            dtype = _DTYPES.get(type(values[0]), object)
            empty = np.empty if dtype is object else np.zeros  # np.empty fills objects with None
            info[key] = empty(num_envs, dtype)
            if isinstance(values[0], list):  # NumPy would take a list of lists for a matrix
                for lane, value in zip(who, values):
                    info[key][lane] = value
            else:
                info[key][where(who, num_envs)] = values
        if who is lanes:
            info[f"_{key}"] = every.copy()
        else:
            info[f"_{key}"] = mask = np.zeros(num_envs, bool)
            mask[who] = True
    return info


def rows(columns: Columns, picked: Sequence[int]) -> Columns:
    """The columns reduced to the values at the picked positions."""
    return {
        key: rows(values, picked)
        if isinstance(values, dict)
        else type(values)(values[i] for i in picked)
        for key, values in columns.items()
    }


def merge(info: Info, other: Info) -> Info:
    """Combine two infos of different lanes into one; may change both arguments."""
    for key, value in other.items():
        if key not in info:
            info[key] = value
        elif isinstance(value, dict):
            merge(info[key], value)
        elif f"_{key}" in other:
            info[key] = np.where(other[f"_{key}"], value, info[key])
        else:
            info[key] = info[key] | value
    return info


def taken(values: Sequence[Any], lanes: Sequence[int]) -> list[Any]:
    """The values of these lanes from a sequence with one value per lane; lanes are ascending."""
    return list(values) if len(lanes) == len(values) else [values[i] for i in lanes]


def put(values: list[Any], lanes: Sequence[int], new: list[Any]) -> None:
    """Set the values of these lanes in a list with one value per lane."""
    if len(lanes) == len(values):
        values[:] = new
    else:
        for i, value in zip(lanes, new):
            values[i] = value


def where(lanes: Sequence[int], num_envs: int) -> Any:
    """An array index for these lanes, ascending; a slice if they are all, which is faster."""
    return slice(None) if len(lanes) == num_envs else lanes


def _columns_of(infos: Sequence[Mapping[str, Any]]) -> Columns:
    keys = infos[0].keys()
    if sum(map(len, infos)) == len(keys) * len(infos):  # most likely all have the same keys
        try:
            return {key: [info[key] for info in infos] for key in keys}
        except KeyError:
            pass
    union = dict.fromkeys(key for info in infos for key in info)
    return {key: Some(info.get(key) for info in infos) for key in union}
