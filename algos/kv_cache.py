"""Keys and values of one layer, for prompts padded on the left and what follows them.

Both classes speak the protocol of mlx-lm's caches (``offset``, ``update_and_fetch``,
``make_mask``), so that its models run on them unchanged.

Shapes: P prompts, G continuations of each, B = P x G rows, H key-value heads, S columns of the
prompts, T columns since, N new columns, D head dimension.
"""

from __future__ import annotations

import copy

from textenv.algos import backend

backend.prepare()

import mlx.core as mx  # noqa: E402

from textenv.algos.attention import Part, as_bias, attend  # noqa: E402


class GrowingCache:
    """Concatenates, so that gradients flow through what was written before.

    Columns are shared by all rows; row b's first ``padding[b]`` columns hold nothing.

    Args:
        padding: (B,).
        padded: whether any of it is above 0.
    """

    def __init__(self, padding: mx.array, padded: bool = True):
        self.padding, self.padded = padding, padded
        self.columns = 0
        self.keys: mx.array | None = None  # (B, H, S, D)
        self.values: mx.array | None = None

    @property
    def offset(self) -> mx.array:
        """Position of the next token in each row, (B,): what rotary embeddings need."""
        return self.columns - self.padding

    def make_mask(
        self, n: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | str | None:
        """Which columns the next ``n`` queries see: (B, 1, N, S + N), True where they do.

        Without padding and window, in the words of mlx-lm: ``"causal"``, or None for one query.
        """
        if self.padded or window_size is not None or return_array:
            return _visible(self.padding, self.columns, n, window_size)
        return "causal" if n > 1 else None

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append (B, H, N, D) and return all columns."""
        if self.keys is not None and self.values is not None:
            keys = mx.concatenate([self.keys, keys], axis=2)
            values = mx.concatenate([self.values, values], axis=2)
        self.keys, self.values = keys, values
        self.columns = keys.shape[2]
        return keys, values

    def keep(self, rows: mx.array) -> None:
        """Drop all rows but these."""
        assert self.keys is not None and self.values is not None
        self.padding = self.padding[rows]
        self.keys, self.values = self.keys[rows], self.values[rows]

    def gather(self, rows: mx.array) -> GrowingCache:
        """A cache whose row i continues this one's row ``rows[i]``, with a copy of it."""
        assert self.keys is not None and self.values is not None
        copied = copy.copy(self)
        copied.keep(rows)
        return copied


class ForkedCache:
    """Continuations of prompts, whose keys and values stay where they are: once for each prompt.

    Row ``p * G + g`` is continuation g of prompt p. What it adds is held apart from the prompt's,
    and `attend` looks at both, see `textenv.algos.attention`.

    Args:
        prompts: the cache that the prompts went through.
        per_prompt: G.
        room: columns to allocate, written in place, for generation; 0 concatenates, so that
            gradients flow.
    """

    def __init__(self, prompts: GrowingCache, per_prompt: int, room: int = 0):
        assert prompts.keys is not None and prompts.values is not None
        self.prompts, self.per_prompt = prompts, per_prompt
        self.columns = 0  # T
        self._room = room
        self._start = mx.repeat(prompts.columns - prompts.padding, per_prompt)  # (B,)
        self._keys: mx.array | None = None  # (P, H, G, T or more, D)
        self._values: mx.array | None = None
        self._bias: mx.array | None = None  # (P, 1, 1, 1, 1, S)
        if prompts.padded:
            filled = mx.arange(prompts.columns) >= prompts.padding[:, None]
            bias = mx.where(filled, 0.0, -mx.inf)
            self._bias = bias.reshape(bias.shape[0], 1, 1, 1, 1, -1).astype(prompts.keys.dtype)

    @property
    def offset(self) -> mx.array:
        """Position of the next token in each row, (B,)."""
        return self._start + self.columns

    def make_mask(
        self, n: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | None:
        """None where the next ``n`` queries see all that came before; with a window, what they see.

        That is (B, 1, N, S + T + N), True where they do. `attend` knows of order and padding.
        """
        if window_size is None:
            return None
        padding = mx.repeat(self.prompts.padding, self.per_prompt)
        return _visible(padding, self.prompts.columns + self.columns, n, window_size)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Take in (B, H, N, D), and give it back: `attend` does not need it."""
        new_keys, new_values = self._split(keys), self._split(values)
        end = self.columns + keys.shape[2]
        if not self._room:
            if self._keys is not None and self._values is not None:
                new_keys = mx.concatenate([self._keys, new_keys], axis=3)
                new_values = mx.concatenate([self._values, new_values], axis=3)
            self._keys, self._values = new_keys, new_values
        else:
            if end > self._room:
                raise ValueError(f"the cache has room for {self._room} columns, not {end}")
            if self._keys is None or self._values is None:
                self._keys = mx.zeros((*new_keys.shape[:3], self._room, new_keys.shape[4]))
                self._keys = self._keys.astype(keys.dtype)
                self._values = mx.zeros((*new_values.shape[:3], self._room, new_values.shape[4]))
                self._values = self._values.astype(values.dtype)
            self._keys[..., self.columns : end, :] = new_keys
            self._values[..., self.columns : end, :] = new_values
        self.columns = end
        return keys, values

    def attend(self, queries: mx.array, scale: float, mask: mx.array | str | None) -> mx.array:
        """Attention of the last N columns' queries over the prompt and all columns since.

        Args:
            queries: (B, heads, N, D).
            scale: what they are multiplied by.
            mask: from `make_mask`.

        Returns:
            (B, heads, N, D).
        """
        keys, values = self.prompts.keys, self.prompts.values
        assert keys is not None and values is not None
        assert self._keys is not None and self._values is not None
        prompts, heads_kv, columns = keys.shape[:3]
        count, heads, length, _ = queries.shape
        group = self.per_prompt
        split = (queries * scale).reshape(prompts, group, heads_kv, -1, length, queries.shape[-1])
        over_prompt, over_own = self._bias, None
        if isinstance(mask, mx.array):
            bias = as_bias(mask, length, columns + self.columns)
            assert bias is not None
            bias = bias.reshape(prompts, group, 1, 1, length, -1).transpose(0, 2, 1, 3, 4, 5)
            over_prompt, over_own = bias[..., :columns], bias[..., columns:]
        elif length > 1:
            causal = as_bias("causal", length, self.columns)
            assert causal is not None
            over_own = causal[None, None].astype(keys.dtype)
        out = attend(
            split.transpose(0, 2, 1, 3, 4, 5),  # (P, H, G, R, N, D)
            [
                Part(keys[:, :, None], values[:, :, None], over_prompt),
                Part(
                    self._keys[..., : self.columns, :],
                    self._values[..., : self.columns, :],
                    over_own,
                ),
            ],
        )
        return out.transpose(0, 2, 1, 3, 4, 5).reshape(count, heads, length, -1)

    def keep(self, prompts: mx.array | None, slots: mx.array, per_prompt: int) -> None:
        """Drop all rows but some.

        Args:
            prompts: (P',) which prompts stay; None keeps all without a copy.
            slots: (P' x G',) which of the old rows each new one was.
            per_prompt: G'.
        """
        if prompts is not None:
            self.prompts = self.prompts.gather(prompts)
            if self._bias is not None:
                self._bias = self._bias[prompts]
        self._start = self._start[slots]
        where = slots // self.per_prompt, slots % self.per_prompt
        for name in ("_keys", "_values"):
            old = getattr(self, name)
            if old is not None:  # (P, H, G, T, D) -> (P' G', H, T, D) -> (P', H, G', T, D)
                rows = old.transpose(0, 2, 1, 3, 4)[where]
                new = rows.reshape(-1, per_prompt, *rows.shape[1:]).transpose(0, 2, 1, 3, 4)
                setattr(self, name, mx.contiguous(new))
        self.per_prompt = per_prompt

    def _split(self, columns: mx.array) -> mx.array:
        """(B, H, N, D) as (P, H, G, N, D)."""
        rows = columns.reshape(-1, self.per_prompt, *columns.shape[1:])
        return rows.transpose(0, 2, 1, 3, 4)


def _visible(padding: mx.array, columns: int, n: int, window_size: int | None) -> mx.array:
    """Which columns the ``n`` queries behind ``columns`` see, (B, 1, N, columns + N)."""
    queries = mx.arange(columns, columns + n)[:, None]
    keys = mx.arange(columns + n)[None]
    causal = queries >= keys
    if window_size is not None:
        causal = causal & (queries < keys + window_size)
    filled = keys >= padding[:, None, None]  # (B, 1, columns + N)
    # A query in the padding sees itself: an empty row of a softmax would be NaN.
    return ((causal & filled) | (queries == keys))[:, None]
