"""Turns a model's weights into NumPy arrays and back, and notices when they change."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from textenv.algos.runtime import backend
from textenv.errors import ConfigError

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
from mlx.utils import tree_flatten, tree_unflatten  # noqa: E402


def as_numpy(tree: Any) -> dict[str, np.ndarray]:
    """The arrays of a tree by name, such as weights or their gradients.

    They share the tree's memory if they can. NumPy has no bfloat16: its bits travel as uint16, and
    `from_numpy` gives them back.
    """
    flat: Any = tree_flatten(tree)
    return {
        name: np.asarray(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array)
        for name, array in flat
    }


def from_numpy(array: np.ndarray, dtype: mx.Dtype) -> mx.array:
    """An array that `as_numpy` gave, in the type that it had."""
    return mx.array(array).view(dtype)


def set_weights(model: nn.Module, weights: Mapping[str, np.ndarray]) -> None:
    """Give a model other weights, from `as_numpy`, of the same names and shapes.

    Raises:
        ConfigError: if they are those of another model.
    """
    model.update(tree_unflatten(list(arrays_like(model.parameters(), weights).items())))
    mx.eval(model.parameters())


def arrays_like(tree: Any, arrays: Mapping[str, np.ndarray]) -> dict[str, mx.array]:
    """Arrays from `as_numpy`, in the types that those of a tree have, by the same names.

    Raises:
        ConfigError: if names, shapes or types are not those of the tree.
    """
    own: Any = dict(tree_flatten(tree))
    expected = {name: (_numpy_type(array.dtype), array.shape) for name, array in own.items()}
    found = {name: (array.dtype.name, array.shape) for name, array in arrays.items()}
    if found != expected:
        odd = sorted({name for name, _ in found.items() ^ expected.items()})
        more = f" and {len(odd) - 5} more" if len(odd) > 5 else ""
        raise ConfigError(
            f"the weights are those of another model: {', '.join(odd[:5])}{more} differ"
        )
    return {name: from_numpy(arrays[name], own[name].dtype) for name in own}


def _numpy_type(dtype: mx.Dtype) -> str:
    """The name of the type in which `as_numpy` gives arrays."""
    return "uint16" if dtype == mx.bfloat16 else str(dtype).removeprefix("mlx.core.")


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of the weights: names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, weights in sorted(_arrays(model), key=lambda pair: pair[0]):
        digest.update(f"{name} {weights.dtype} {weights.shape}\n".encode())
        digest.update(np.asarray(mx.reshape(weights, [-1]).view(mx.uint8)).tobytes())
    return digest.hexdigest()


class WeightsStamp:
    """Recognises later whether a model's weights are as they are now, without a copy of them."""

    def __init__(self, model: nn.Module):
        arrays = _arrays(model)
        self._names = [name for name, _ in arrays]
        self._arrays = [weakref.ref(array) for _, array in arrays]
        self._sums = checksums(arrays)

    def is_of(self, model: nn.Module) -> bool:
        """Whether a model's weights are still the same arrays, with the same numbers in them."""
        arrays = _arrays(model)
        return (
            self._names == [name for name, _ in arrays]
            and all(ref() is array for ref, (_, array) in zip(self._arrays, arrays))
            and np.array_equal(self._sums, checksums(arrays))
        )


def _arrays(model: nn.Module) -> list[tuple[str, mx.array]]:
    arrays: Any = tree_flatten(model.parameters())
    return arrays


def checksums(arrays: Sequence[tuple[str, mx.array]]) -> np.ndarray:
    """The sum of each array's bits as whole numbers: writing any one number changes it."""
    if not arrays:
        return np.zeros(0, np.uint64)
    types = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32, 8: mx.uint64}
    bits = [array.view(types[array.dtype.size]) for _, array in arrays]
    return np.array(mx.stack([mx.sum(b).astype(mx.uint64) for b in bits]))
