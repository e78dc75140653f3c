"""The cache of one layer: keys and values of prompts, and of the rows that continue them.

A `GrowingCache` holds the prompts. A `ForkedCache` goes on from them: its rows *fork* from the
prompts, so that several rows continue one prompt, which is held once. Both have the methods of
mlx-lm's caches (``offset``, ``update_and_fetch``, ``make_mask``), so that its models run on them
unchanged.

All rows of a batch share their columns. `textenv.algos.lm.cache.positions` says which of them a row
uses.

Shapes: P prompts, G continuations of each, B = P x G rows, H key-value heads, S columns of the
prompts, T columns after them, N new columns, D head dimension.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np

from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402

from textenv.algos.lm.cache.by_prompt import (  # noqa: E402
    attend_by_prompt,
    by_prompt,
    split_mask,
)
from textenv.algos.lm.cache.positions import RowPositions, window  # noqa: E402
from textenv.algos.lm.kernels.attention import KeyBlock, as_bias  # noqa: E402


class GrowingCache:
    """A cache that grows by concatenation, so that gradients flow through all columns.

    Args:
        padding: (B,) how many columns at the start of each row hold nothing.
        padded: whether any of these numbers is above 0.
    """

    def __init__(self, padding: mx.array, padded: bool = True):
        self.padding, self.padded = padding, padded
        self.columns = 0
        self.keys: mx.array | None = None  # (B, H, S, D)
        self.values: mx.array | None = None

    @property
    def arrays(self) -> list[mx.array]:
        """All arrays that the cache holds; none before its first columns."""
        return [array for array in (self.keys, self.values) if array is not None]

    @property
    def offset(self) -> mx.array:
        """The position of the next token in each row, (B,), for rotary embeddings."""
        return self.columns - self.padding

    def make_mask(
        self, n: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | str | None:
        """Which columns the next ``n`` queries see: (B, 1, N, S + N), True for those.

        Without padding and window it is what mlx-lm gives: ``"causal"``, or None for one query.
        """
        if self.padded or window_size is not None or return_array:
            filled = mx.arange(self.columns + n) >= self.padding[:, None]
            return window(filled, n, window_size)
        return "causal" if n > 1 else None

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append keys and values (B, H, N, D), and return those of all columns."""
        if self.keys is not None and self.values is not None:
            keys = mx.concatenate([self.keys, keys], axis=2)
            values = mx.concatenate([self.values, values], axis=2)
        self.keys, self.values = keys, values
        self.columns = keys.shape[2]
        return keys, values

    def gather(self, rows: mx.array) -> GrowingCache:
        """A cache whose row i is a copy of this one's row ``rows[i]``."""
        assert self.keys is not None and self.values is not None
        new = copy.copy(self)
        new.padding = self.padding[rows]
        new.keys, new.values = self.keys[rows], self.values[rows]
        return new

    def join(self, other: GrowingCache) -> GrowingCache:
        """A cache of both caches' rows; those with fewer columns are padded on the left."""
        assert self.keys is not None and self.values is not None
        assert other.keys is not None and other.values is not None
        columns = self.columns, other.columns
        new = copy.copy(self)
        new.columns = most = max(columns)
        new.padded = self.padded or other.padded or columns[0] != columns[1]
        new.padding = mx.concatenate(
            [cache.padding + (most - cache.columns) for cache in (self, other)]
        )
        new.keys = _stack([self.keys, other.keys], columns, most)
        new.values = _stack([self.values, other.values], columns, most)
        return new


class ForkedCache:
    """A cache of rows that continue prompts, in which each prompt is held once.

    Row ``p * G + g`` is continuation g of prompt p. Its own columns are held apart from the
    prompt's, and `attend` looks at both, see `textenv.algos.lm.kernels.attention`. If every prompt
    has one continuation, both can be held together: see `alone`.

    Args:
        prompts: the cache that the prompts went through.
        per_prompt: G.
        room: for generation, how many columns to allocate at a time, which are then written in
            place; 0: columns are concatenated, so that gradients flow.
        positions: the positions of all layers; None: they are made for this layer.
    """

    def __init__(
        self,
        prompts: GrowingCache,
        per_prompt: int,
        room: int = 0,
        positions: RowPositions | None = None,
    ):
        self.prompts: GrowingCache | None = prompts
        self.per_prompt = per_prompt
        self.columns = 0  # T
        self.positions = positions or positions_of(prompts, per_prompt)
        self._room = room
        self._keys: mx.array | None = None  # (P, H, G, T or more, D)
        self._values: mx.array | None = None

    @classmethod
    def alone(cls, prompts: GrowingCache, room: int, positions: RowPositions) -> ForkedCache:
        """A cache with one continuation of each prompt, which takes the prompt's columns over.

        Args:
            prompts: the cache that the prompts went through.
            room: how many columns to allocate at a time.
            positions: from `positions_alone`.
        """
        assert prompts.keys is not None and prompts.values is not None
        new = cls(prompts, 1, room, positions)
        new.prompts, new.columns = None, prompts.columns
        new._keys, new._values = prompts.keys[:, :, None], prompts.values[:, :, None]
        return new

    def begun(self, keys: mx.array, values: mx.array, positions: RowPositions) -> ForkedCache:
        """A cache of the same prompts whose rows begin with given columns.

        Args:
            keys: (B * T, H, D), row after row.
            values: in the shape of the keys.
            positions: the positions of the rows with these columns.
        """
        new = copy.copy(self)
        rows = positions.start.shape[0]
        new.positions, new.columns = positions, keys.shape[0] // rows
        new._keys, new._values = (
            array.reshape(-1, self.per_prompt, new.columns, *array.shape[1:]).transpose(
                0, 3, 1, 2, 4
            )
            for array in (keys, values)
        )
        return new

    def columns_from(self, first: int) -> tuple[mx.array, mx.array]:
        """Keys and values of the rows' columns from ``first`` on, (B * N, H, D), row after row."""
        assert self._keys is not None and self._values is not None
        keys, values = (
            array[..., first : self.columns, :]
            .transpose(0, 2, 3, 1, 4)
            .reshape(-1, array.shape[1], array.shape[-1])
            for array in (self._keys, self._values)
        )
        return keys, values

    @property
    def own(self) -> tuple[mx.array, mx.array]:
        """Keys and values (P, H, G, T or more, D) of the rows' own columns, with free ones."""
        assert self._keys is not None and self._values is not None
        return self._keys, self._values

    @property
    def shared(self) -> tuple[mx.array, ...]:
        """Keys and values (P, H, S, D) of the prompts; empty if the rows took them over."""
        if self.prompts is None:
            return ()
        assert self.prompts.keys is not None and self.prompts.values is not None
        return self.prompts.keys, self.prompts.values

    @property
    def arrays(self) -> list[mx.array]:
        """All arrays that the cache holds, with those of the prompts."""
        of_prompts = [] if self.prompts is None else self.prompts.arrays
        return of_prompts + [array for array in (self._keys, self._values) if array is not None]

    @property
    def room(self) -> int:
        """How many columns are allocated."""
        return 0 if self._keys is None else self._keys.shape[3]

    def make_room(self, count: int) -> None:
        """Allocate columns, unless ``count`` of them are free."""
        if self._keys is None or self._values is None:
            assert self.prompts is not None
            keys, values = self.prompts.keys, self.prompts.values
            assert keys is not None and values is not None
            self._keys, self._values = (
                mx.zeros((*a.shape[:2], self.per_prompt, 0, a.shape[-1]), a.dtype)
                for a in (keys, values)
            )
        held, end = self._keys.shape[3], self.columns + count
        if held >= end:
            return
        missing = -(-end // self._room) * self._room - held  # a multiple, so that shapes recur
        free = [
            mx.zeros((*a.shape[:3], missing, a.shape[4]), a.dtype)
            for a in (self._keys, self._values)
        ]
        if held:
            both = zip((self._keys, self._values), free)
            free = [mx.concatenate([*parts], axis=3) for parts in both]
        self._keys, self._values = free

    def take_column(self, keys: mx.array, values: mx.array) -> None:
        """Replace `own` by arrays in which the next column is written."""
        self._keys, self._values = keys, values
        self.columns += 1

    @property
    def width(self) -> int:
        """S, the number of the prompts' columns; 0 if the rows took them over."""
        return 0 if self.prompts is None else self.prompts.columns

    @property
    def offset(self) -> mx.array:
        """The position of the next token in each row, (B,)."""
        return self.positions.offset(self.columns)

    def make_mask(
        self, n: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | None:
        """With a window, which columns the next ``n`` queries see, (B, 1, N, S + T + N); else None.

        None means that they see all that came before: `attend` itself heeds order and padding.
        """
        if window_size is None:
            return None
        return self.positions.visible(self.width, self.columns, n, window_size)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append keys and values (B, H, N, D), and return them; `attend` does not need them."""
        new_keys, new_values = by_prompt(keys, self.per_prompt), by_prompt(values, self.per_prompt)
        end = self.columns + keys.shape[2]
        if not self._room:
            if self._keys is not None and self._values is not None:
                new_keys = mx.concatenate([self._keys, new_keys], axis=3)
                new_values = mx.concatenate([self._values, new_values], axis=3)
            # Laid out in memory once, and not for each product of the forward and the backward.
            self._keys, self._values = mx.contiguous(new_keys), mx.contiguous(new_values)
        else:
            self.make_room(keys.shape[2])
            assert self._keys is not None and self._values is not None
            self._keys[..., self.columns : end, :] = new_keys
            self._values[..., self.columns : end, :] = new_values
        self.columns = end
        return keys, values

    def attend(self, queries: mx.array, scale: float, mask: mx.array | str | None) -> mx.array:
        """Attention of the last N columns over the prompt and all columns after it.

        Args:
            queries: (B, heads, N, D).
            scale: what the queries are multiplied by.
            mask: from `make_mask`.

        Returns:
            (B, heads, N, D).
        """
        assert self._keys is not None and self._values is not None
        length, width, group = queries.shape[2], self.width, self.per_prompt
        over_prompt = self.positions.over_prompt(width)
        over_own = self.positions.over_own(self.columns, group)
        if isinstance(mask, mx.array):
            over_prompt, over_own = split_mask(mask, group, width)
        elif length > 1:
            causal = as_bias("causal", length, self.columns)
            assert causal is not None
            over_own = causal[None, None] if over_own is None else over_own + causal[None, None]
        keys, values = (array[..., : self.columns, :] for array in self.own)
        own = KeyBlock(keys, values, over_own)
        return attend_by_prompt(queries, scale, own, self.shared, over_prompt)

    def take(
        self,
        prompts: mx.array | None,
        slots: mx.array,
        per_prompt: int,
        stretch: tuple[int, int],
        positions: RowPositions,
    ) -> ForkedCache:
        """A cache with copies of some rows.

        Args:
            prompts: (P',) which prompts, each as often as its rows need; None: all as they are.
            slots: (P' x G',) the old row of each new one.
            per_prompt: G'.
            stretch: the first column to keep, and the first after them.
            positions: the positions of the new rows.
        """
        new = copy.copy(self)
        new.per_prompt, new.positions = per_prompt, positions
        new.columns = stretch[1] - stretch[0]
        if prompts is not None and self.prompts is not None:
            new.prompts = self.prompts.gather(prompts)
        if self._keys is not None and self._values is not None:
            index = slots.reshape(-1, 1, per_prompt)
            if stretch == (0, self.columns):  # the free columns too: to make room again costs more
                stretch = 0, self.room
            new._keys = _rows(self._keys, index, *stretch)
            new._values = _rows(self._values, index, *stretch)
        return new

    def join(self, other: ForkedCache, positions: RowPositions) -> ForkedCache:
        """A cache of both caches' rows; those with fewer columns are moved to the right.

        Args:
            other: a cache of as many rows for each prompt; its rows come last.
            positions: the positions of all rows.
        """
        columns = self.columns, other.columns
        new = copy.copy(self)
        new.positions, new.columns = positions, max(columns)
        if self.prompts is not None and other.prompts is not None:
            new.prompts = self.prompts.join(other.prompts)
        # A cache that was just made of prompts has no columns of its own yet.
        like = self._keys if self._keys is not None else other._keys
        if like is not None:
            both = self, other
            new._keys = _stack([c._own(c._keys, like) for c in both], columns, new.columns)
            like = self._values if self._values is not None else other._values
            new._values = _stack([c._own(c._values, like) for c in both], columns, new.columns)
        return new

    def _own(self, array: mx.array | None, like: mx.array | None) -> mx.array:
        """Keys or values of the rows' own columns, of width 0 if there are none yet."""
        assert like is not None
        if array is not None:
            return array[..., : self.columns, :]
        assert self.prompts is not None
        return mx.zeros(
            (len(self.prompts.padding), like.shape[1], self.per_prompt, 0, like.shape[-1]),
            like.dtype,
        )


def positions_of(prompts: GrowingCache, per_prompt: int) -> RowPositions:
    """The positions of rows that continue prompts, ``per_prompt`` for each."""
    start = mx.repeat(prompts.columns - prompts.padding, per_prompt)
    return RowPositions(start, prompts.padding if prompts.padded else None)


def positions_alone(prompts: GrowingCache) -> RowPositions:
    """The positions for `ForkedCache.alone`: the prompts' padding becomes holes."""
    if not prompts.padded:
        return RowPositions(-prompts.padding)
    padding = np.array(prompts.padding)
    return RowPositions(-prompts.padding, None, np.arange(prompts.columns) < padding[:, None])


def _rows(array: mx.array, index: mx.array, first: int, end: int) -> mx.array:
    """Some rows and a stretch of their columns, (P', H, G', end - first, D).

    Args:
        array: keys or values (P, H, G, T, D).
        index: (P', 1, G') which rows, p * G + g.
        first: the first column.
        end: the first column after them.
    """
    heads, group, columns, size = array.shape[1:]
    head = mx.arange(heads)[:, None]
    flat = (index // group * heads + head) * group + index % group  # (P', H, G')
    rows = array.reshape(-1, columns, size)[flat]
    return rows if (first, end) == (0, columns) else rows[..., first:end, :]


def _stack(arrays: Sequence[mx.array], columns: Sequence[int], most: int) -> mx.array:
    """Arrays (..., columns, D) one after the other, aligned at the last column."""
    parts = []
    for array, count in zip(arrays, columns):
        if count < most:
            shape = (*array.shape[:-2], most - count, array.shape[-1])
            array = mx.concatenate([mx.zeros(shape, array.dtype), array], axis=-2)
        parts.append(array)
    return mx.concatenate(parts)
