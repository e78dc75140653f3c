"""Runs prompts and completions through the model in one forward pass, for training.

Everything in a layer except attention takes tokens one by one, so prompts and continuations go
through it together. That takes half as many operations as one after the other, forward and
backward, on larger matrices. Attention takes them apart, see `textenv.algos.lm.cache.kv_cache`.

Shapes: P prompts of S columns, B rows that continue them with T columns each, M = P x S + B x T
tokens, H key-value heads, D head dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from textenv.algos.lm.cache.layout import Layout
from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402

from textenv.algos.lm.cache.kv_cache import ForkedCache, GrowingCache  # noqa: E402
from textenv.algos.lm.cache.positions import RowPositions  # noqa: E402
from textenv.algos.lm.kernels.attention import scaled_dot_product_attention  # noqa: E402


def forward(
    body: Callable[..., mx.array],
    layers: int,
    prompts: tuple[mx.array, mx.array, bool],
    layout: Layout,
    tokens: mx.array,
) -> list[mx.array]:
    """Hidden states of prompts (P, S, D), and of their continuations (B, T, D).

    Args:
        body: a function of tokens and caches that gives hidden states.
        layers: how many caches the body takes.
        prompts: from `textenv.algos.lm.cache.positions.pad_left`.
        layout: the layout of the continuations.
        tokens: (B, T) the tokens of the continuations.
    """
    ids, padding, padded = prompts
    packing = Packing(padding, padded, ids.shape[1], layout, tokens.shape[1])
    caches = [PackedCache(packing) for _ in range(layers)]
    return packing.split(body(packing.join(ids, tokens)[:, None], caches)[:, 0])


class Packing:
    """How the tokens of prompts and continuations are packed; the same for all layers.

    Args:
        padding: (P,) the padding of the prompts.
        padded: whether any prompt is padded.
        width: S.
        layout: the layout of the continuations.
        columns: T.
    """

    def __init__(self, padding: mx.array, padded: bool, width: int, layout: Layout, columns: int):
        self._padding, self._padded = padding, padded
        self._width, self._columns = width, columns
        self._index = None if layout.prompts is None else mx.array(layout.prompts)
        self._group = layout.per_prompt
        held = padding if self._index is None else padding[self._index]
        self._positions = RowPositions(
            mx.repeat(width - held, self._group), held if padded else None
        )
        of_prompts = mx.arange(width) - padding[:, None]
        of_rows = self._positions.start[:, None] + mx.arange(columns)
        self.offset = mx.concatenate([of_prompts.reshape(-1), of_rows.reshape(-1)])
        """(M,) the position of each token."""
        self._prompt_mask: mx.array | str | None = None

    def split(self, tokens: mx.array) -> list[mx.array]:
        """Packed tokens (M, ...) as those of prompts (P, S, ...) and of rows (B, T, ...)."""
        prompts, rows = mx.split(tokens, [len(self._padding) * self._width])
        rest = tokens.shape[1:]
        return [prompts.reshape(-1, self._width, *rest), rows.reshape(-1, self._columns, *rest)]

    def join(self, prompts: mx.array, rows: mx.array) -> mx.array:
        """Tokens of prompts and of rows packed together, (M, ...): the inverse of `split`."""
        return mx.concatenate(
            [prompts.reshape(-1, *prompts.shape[2:]), rows.reshape(-1, *rows.shape[2:])]
        )

    def caches(self, keys: mx.array, values: mx.array) -> tuple[GrowingCache, ForkedCache]:
        """Caches of prompts and of rows, filled with packed keys and values (M, H, 1, D)."""
        (prompt_keys, own_keys), (prompt_values, own_values) = map(self._by_heads, (keys, values))
        prompts = GrowingCache(self._padding, self._padded)
        prompts.update_and_fetch(prompt_keys, prompt_values)
        held = prompts if self._index is None else prompts.gather(self._index)
        forks = ForkedCache(held, self._group, positions=self._positions)
        forks.update_and_fetch(own_keys, own_values)
        return prompts, forks

    def _by_heads(self, array: mx.array) -> list[mx.array]:
        """Packed (M, H, 1, D) as (P, H, S, D) and (B, H, T, D)."""
        return [part.transpose(0, 2, 1, 3) for part in self.split(array[:, :, 0])]

    def mask(self) -> mx.array | str | None:
        """The mask of the prompts' queries, as from `GrowingCache.make_mask`."""
        if self._prompt_mask is None:
            empty = GrowingCache(self._padding, self._padded)
            self._prompt_mask = empty.make_mask(self._width)
        return self._prompt_mask

    def window(self, window_size: int) -> mx.array:
        """Which columns each token sees in a sliding window, (M, 1, 1, S + T)."""
        empty = GrowingCache(self._padding, self._padded)
        # With a window, the mask is an array.
        prompts: Any = empty.make_mask(self._width, window_size=window_size)
        rows = self._positions.visible(self._width, 0, self._columns, window_size)
        wide = mx.pad(prompts, [(0, 0)] * 3 + [(0, self._columns)])
        return self.join(wide[:, 0], rows[:, 0])[:, None, None]


class PackedCache:
    """The cache of one layer in a packed forward.

    Args:
        packing: how the tokens are packed.
    """

    def __init__(self, packing: Packing):
        self._packing = packing
        self._caches: tuple[GrowingCache, ForkedCache] | None = None

    @property
    def offset(self) -> mx.array:
        """(M,) the position of each token."""
        return self._packing.offset

    def make_mask(
        self, n: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | None:
        """With a window, which columns each token sees, (M, 1, 1, S + T); else None."""
        return None if window_size is None else self._packing.window(window_size)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Take packed keys and values (M, H, 1, D), and return them unchanged."""
        self._caches = self._packing.caches(keys, values)
        return keys, values

    def attend(self, queries: mx.array, scale: float, mask: mx.array | None) -> mx.array:
        """Attention of packed queries (M, heads, 1, D); see `ForkedCache.attend`."""
        assert self._caches is not None
        packing, (prompts, forks) = self._packing, self._caches
        of_prompts, of_rows = packing._by_heads(queries)
        seen = packing.mask()
        over = None
        if mask is not None:
            first, over = (part.swapaxes(1, 2) for part in packing.split(mask[:, :, 0]))
            seen = first[..., : prompts.columns]
        assert prompts.keys is not None and prompts.values is not None
        done = scaled_dot_product_attention(
            of_prompts, prompts.keys, prompts.values, prompts, scale, seen
        )
        after = forks.attend(of_rows, scale, over)
        return packing.join(done.swapaxes(1, 2), after.swapaxes(1, 2))[:, :, None]
