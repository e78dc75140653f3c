"""Text through the shared memory of `gymnasium.vector.AsyncVectorEnv`, which is its default.

Gymnasium writes a text as indices into the space's list of characters, and reads it once, before
anything is written: a space without such a list would give garbage. Importing this module registers
what `UnicodeText` needs instead, also within ``Dict`` and ``Tuple`` spaces.

Each environment has a slot for the longest text of the space, a length and UTF-8: 4 MiB for a
million characters. That is address space: a page costs memory once a text has reached it.
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

_LENGTH = struct.Struct("<Q")  # of the text that follows, in bytes
_BYTES_PER_CHARACTER = 4  # at most, in UTF-8


@create_shared_memory.register(UnicodeText)
def _create(space: UnicodeText, n: int = 1, ctx: Any = multiprocessing) -> Arena:
    # Not ctx.Array: it writes zeros all over, and so commits every page.
    return Arena(n * _slot(space))


@write_to_shared_memory.register(UnicodeText)
def _write(space: UnicodeText, index: int, value: str, shared_memory: Arena) -> None:
    data = value.encode()
    start = index * _slot(space)
    if len(data) > _slot(space) - _LENGTH.size:
        raise ValueError(
            f"a text of {len(value)} characters does not fit {space}, which is what the shared "
            "memory was made for"
        )
    _LENGTH.pack_into(shared_memory.buffer, start, len(data))
    start += _LENGTH.size
    shared_memory.buffer[start : start + len(data)] = data


@read_from_shared_memory.register(UnicodeText)
def _read(space: UnicodeText, shared_memory: Arena, n: int = 1) -> _Texts:
    return _Texts(space, shared_memory, n)


class _Texts(tuple):
    """The texts that are in the shared memory now.

    `AsyncVectorEnv` reads once, keeps what it got, and gives out deep copies of it (or, with
    ``copy=False``, the thing itself): so this reads whenever it is looked at.
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

    __hash__ = None  # type: ignore[assignment]  # it changes


def _slot(space: UnicodeText) -> int:
    """Bytes of one environment's text."""
    return _LENGTH.size + _BYTES_PER_CHARACTER * space.max_length


def _text(memory: Arena, start: int) -> str:
    (length,) = _LENGTH.unpack_from(memory.buffer, start)
    start += _LENGTH.size
    return bytes(memory.buffer[start : start + length]).decode()
