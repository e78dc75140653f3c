"""Weights in memory that processes of this machine share: one writes them, the others read them."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

_ALIGN = 64  # bytes


class Place(NamedTuple):
    """Where an array is."""

    name: str
    dtype: str
    """NumPy's text of the type and its byte order, such as ``<f4``."""
    shape: tuple[int, ...]
    offset: int
    """Bytes from the beginning."""


class SharedWeights:
    """Arrays by name, in a file that has no name and, on Linux, is never on a disk.

    What is read while it is written is a mix of both: the processes must take turns.

    Args:
        number: the descriptor of the file of another process; None makes a file.
    """

    def __init__(self, number: int | None = None):
        self.number = _make() if number is None else number

    def write(self, tensors: Mapping[str, np.ndarray]) -> list[Place]:
        """Put arrays there in place of others, and return where they are."""
        places, end = [], 0
        for name, array in tensors.items():
            places.append(Place(name, array.dtype.str, array.shape, end))
            end += -(-array.nbytes // _ALIGN) * _ALIGN
        os.ftruncate(self.number, max(end, 1))
        with mmap.mmap(self.number, max(end, 1)) as memory:
            for place, array in zip(places, tensors.values()):
                _view(memory, place)[...] = array
        return places

    def read(self, places: Sequence[Place]) -> dict[str, np.ndarray]:
        """Copies of the arrays that `write` put there, which nobody else changes."""
        with mmap.mmap(self.number, 0, access=mmap.ACCESS_READ) as memory:
            return {place.name: _view(memory, place).copy() for place in places}

    def clear(self) -> None:
        """Give the memory back."""
        os.ftruncate(self.number, 0)

    def close(self) -> None:
        """Close the file here; other processes still have it."""
        os.close(self.number)


def _make() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("weights")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _view(memory: mmap.mmap, place: Place) -> np.ndarray:
    return np.ndarray(place.shape, place.dtype, memory, place.offset)
