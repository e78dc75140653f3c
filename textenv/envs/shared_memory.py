"""Lets `gymnasium.vector.AsyncVectorEnv` pass text observations through its shared memory.

Shared memory is the default of `AsyncVectorEnv`. For text, Gymnasium writes indices into the
space's list of characters, and reads them once, before anything is written. `UnicodeText` has no
such list, so its observations would be garbage. Importing this module registers functions for
`UnicodeText` that work, also if it is part of a ``Dict`` or ``Tuple`` space.

Each environment has a slot that holds a length and UTF-8 bytes, large enough for the longest text
of the space: 4 MiB for a million characters. This is address space only. A page takes up memory
when a text first reaches it.
"""

from __future__ import annotations

import multiprocessing
import struct
from collections.abc import Iterator
from multiprocessing.heap import Arena
from typing import Any

from gymnasium.vector.utils.shared_memory import (
    create_shared_memory,
    read_from_shared_memory,
    write_to_shared_memory,
)

from textenv.spaces import UnicodeText

_LENGTH = struct.Struct("<Q")  # length in bytes of the text that follows
_BYTES_PER_CHARACTER = 4  # at most, in UTF-8


@create_shared_memory.register(UnicodeText)
def _create(space: UnicodeText, n: int = 1, ctx: Any = multiprocessing) -> Arena:
    # Not ctx.Array: it fills the memory with zeros, and so takes up every page.
    return Arena(n * _slot(space))


@write_to_shared_memory.register(UnicodeText)
def _write(space: UnicodeText, index: int, value: str, shared_memory: Arena) -> None:
    data = value.encode()
    start = index * _slot(space)
    if len(data) > _slot(space) - _LENGTH.size:
        raise ValueError(
            f"a text of {len(value)} characters does not fit {space}, for which the shared "
            "memory was made"
        )
    _LENGTH.pack_into(shared_memory.buffer, start, len(data))
    start += _LENGTH.size
    shared_memory.buffer[start : start + len(data)] = data


@read_from_shared_memory.register(UnicodeText)
def _read(space: UnicodeText, shared_memory: Arena, n: int = 1) -> _Texts:
    return _Texts(space, shared_memory, n)


class _Texts(tuple):
    """A tuple whose items are read from the shared memory each time they are used.

    `AsyncVectorEnv` calls the read function once, keeps the result, and returns deep copies of it
    after each step (with ``copy=False``, the result itself).
    """

    def __new__(cls, space: UnicodeText, memory: Arena, n: int) -> _Texts:
        texts = super().__new__(cls, range(n))
        texts._read = lambda i: _text(memory, i * _slot(space))  # type: ignore[attr-defined]
        return texts

    def __iter__(self) -> Iterator[str]:
        return (self._read(i) for i in range(len(self)))  # type: ignore[attr-defined]

    def __getitem__(self, index: Any) -> Any:
        return tuple(self)[index]

    def __eq__(self, other: object) -> bool:
        return tuple(self) == other

    def __repr__(self) -> str:
        return repr(tuple(self))

    def __deepcopy__(self, memo: dict[int, Any]) -> tuple[str, ...]:
        return tuple(self)

    __hash__ = None  # type: ignore[assignment]  # its value changes


def _slot(space: UnicodeText) -> int:
    """Number of bytes of one environment's slot."""
    return _LENGTH.size + _BYTES_PER_CHARACTER * space.max_length


def _text(memory: Arena, start: int) -> str:
    (length,) = _LENGTH.unpack_from(memory.buffer, start)
    start += _LENGTH.size
    return bytes(memory.buffer[start : start + length]).decode()
