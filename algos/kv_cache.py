"""Keys and values of one layer, for prompts padded on the left and what follows them.

Both classes speak the protocol of mlx-lm's caches (``offset``, ``update_and_fetch``,
``make_mask``), so that its models run on them unchanged.

Shapes: B rows, H key-value heads, S columns so far, N new columns, D head dimension.
"""

from __future__ import annotations

from textenv.algos import backend

backend.prepare()

import mlx.core as mx  # noqa: E402


class _Cache:
    """Columns are shared by all rows; row b's first ``padding[b]`` columns hold nothing."""

    def __init__(self, padding: mx.array, columns: int = 0):
        self.padding = padding  # (B,)
        self.columns = columns
        self.keys: mx.array | None = None  # (B, H, S or more, D)
        self.values: mx.array | None = None

    @property
    def offset(self) -> mx.array:
        """Position of the next token in each row, (B,): what rotary embeddings need."""
        return self.columns - self.padding

    def make_mask(
        self, n: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array:
        """Which columns the next ``n`` queries see, (B, 1, N, S + N), True where they do."""
        queries = mx.arange(self.columns, self.columns + n)[:, None]
        columns = mx.arange(self.columns + n)[None]
        causal = queries >= columns
        if window_size is not None:
            causal = causal & (queries < columns + window_size)
        filled = columns >= self.padding[:, None, None]  # (B, 1, S + N)
        # A query in the padding sees itself: an empty row of a softmax would be NaN.
        return ((causal & filled) | (queries == columns))[:, None]


class GrowingCache(_Cache):
    """Concatenates, so that gradients flow through what was written before."""

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append (B, H, N, D) and return all columns."""
        if self.keys is not None and self.values is not None:
            keys = mx.concatenate([self.keys, keys], axis=2)
            values = mx.concatenate([self.values, values], axis=2)
        self.keys, self.values = keys, values
        self.columns = keys.shape[2]
        return keys, values

    def fork(self, rows: mx.array, uniform: int = 0) -> GrowingCache:
        """A cache whose row i continues this one's row ``rows[i]``.

        Args:
            rows: (B',) indices.
            uniform: where every row is continued by this many, in order, a broadcast replaces
                the gather (its gradient is a sum and not a scatter); 0 where that is not so.
        """
        fork = GrowingCache(self.padding[rows], self.columns)
        assert self.keys is not None and self.values is not None
        if uniform:
            fork.keys = mx.repeat(self.keys, uniform, axis=0)
            fork.values = mx.repeat(self.values, uniform, axis=0)
        else:
            fork.keys, fork.values = self.keys[rows], self.values[rows]
        return fork


class DecodeCache(_Cache):
    """Preallocated columns, written in place: for generation, where no gradient is needed."""

    @classmethod
    def continuing(cls, cache: GrowingCache, rows: mx.array, room: int) -> DecodeCache:
        """Row i continues ``cache``'s row ``rows[i]``, with room for that many more columns."""
        assert cache.keys is not None and cache.values is not None
        self = cls(cache.padding[rows], cache.columns)
        empty = [(0, 0), (0, 0), (0, room), (0, 0)]
        self.keys = mx.pad(cache.keys[rows], empty)
        self.values = mx.pad(cache.values[rows], empty)
        return self

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write (B, H, N, D) into the next columns and return all columns so far."""
        assert self.keys is not None and self.values is not None
        end = self.columns + keys.shape[2]
        if end > self.keys.shape[2]:
            raise ValueError(f"the cache has room for {self.keys.shape[2]} columns, not {end}")
        self.keys[..., self.columns : end, :] = keys
        self.values[..., self.columns : end, :] = values
        self.columns = end
        return self.keys[..., :end, :], self.values[..., :end, :]

    def keep(self, rows: mx.array) -> None:
        """Drop all rows but these."""
        assert self.keys is not None and self.values is not None
        self.padding = self.padding[rows]
        self.keys, self.values = self.keys[rows], self.values[rows]
