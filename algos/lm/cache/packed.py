"""Runs prompts and completions through the model in one forward pass, for training.

Everything in a layer except attention takes tokens one by one, so prompts and continuations go
through it together. That takes half as many operations as one after the other, forward and
backward, on larger matrices. Attention takes them apart, see `textenv.algos.lm.cache.kv_cache`.

Many prompts begin alike: with one system message, with the same examples or tools. What all of them
begin with, the *stem*, goes through once as well, and attention adds its keys to those of each
prompt. They come after the prompt's own, so that the padding stays on the left; only the positions
say what is seen.

Prompts and rows are of different lengths, and attention takes them padded. If there is much of it,
padding goes through nothing else.

Shapes: a stem of C columns (0 if there is none), P prompts of S columns of their own, B rows that
continue them with T columns each, M tokens: C + P x S + B x T, or without the padding fewer; H
key-value heads, D head dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from textenv.algos.lm.cache.layout import Layout
from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402

from textenv.algos.lm.cache.kv_cache import ForkedCache, GrowingCache  # noqa: E402
from textenv.algos.lm.cache.padding import find_padding  # noqa: E402
from textenv.algos.lm.cache.positions import RowPositions, pad_left  # noqa: E402
from textenv.algos.lm.kernels.attention import scaled_dot_product_attention  # noqa: E402

LEAST_STEM = 8
"""Shorter stems are computed for each prompt, which takes fewer operations."""

_NEVER = 2**30  # the position of a column that holds nothing, after those of all queries


def forward(
    body: Callable[..., mx.array],
    layers: int,
    prompts: Sequence[list[int]],
    layout: Layout,
    tokens: mx.array,
    lengths: np.ndarray | None = None,
    least_stem: int = LEAST_STEM,
) -> tuple[mx.array, mx.array]:
    """Hidden states of the prompts' own columns (P, S, D), and of their continuations (B, T, D).

    Those of padding have no meaning.

    Args:
        body: a function of tokens and caches that gives hidden states.
        layers: how many caches the body takes.
        prompts: the token ids of P prompts.
        layout: the layout of the continuations.
        tokens: (B, T) the tokens of the continuations, padded on the right.
        lengths: (B,) how many tokens of each are needed; None: all.
        least_stem: the least number of tokens in a stem.
    """
    stem = find_stem(prompts, least_stem)
    ids, padding, padded = pad_left([prompt[stem:] for prompt in prompts])
    count, columns = tokens.shape
    lengths = np.full(count, columns) if lengths is None else lengths
    packing = Packing(padding, padded, ids.shape[1], layout, columns, lengths, stem)
    caches = [PackedCache(packing) for _ in range(layers)]
    packed = packing.join(mx.array(prompts[0][:stem], dtype=ids.dtype), ids, tokens)
    _, own, rows = packing.split(body(packed[:, None], caches)[:, 0])
    return own, rows


def find_stem(prompts: Sequence[Sequence[int]], least: int) -> int:
    """How many tokens all prompts begin with; 0 if fewer than ``least``, or for one prompt alone.

    Each prompt keeps a token of its own, whose hidden state predicts the first of its completions.
    """
    if len(prompts) < 2:
        return 0
    first, last = min(prompts, key=list), max(prompts, key=list)  # the others are between them
    alike = next((i for i, (a, b) in enumerate(zip(first, last)) if a != b), len(first))
    stem = min(alike, min(map(len, prompts)) - 1)
    return stem if stem >= least else 0


class Packing:
    """How the tokens of prompts and continuations are packed; the same for all layers.

    Args:
        padding: (P,) the padding of the prompts.
        padded: whether any prompt is padded.
        width: S.
        layout: the layout of the continuations.
        columns: T.
        lengths: (B,) how many columns of each continuation are needed.
        stem: C.
    """

    def __init__(
        self,
        padding: mx.array,
        padded: bool,
        width: int,
        layout: Layout,
        columns: int,
        lengths: np.ndarray,
        stem: int = 0,
    ):
        self._padding, self._padded = padding, padded
        own = np.arange(width) >= np.array(padding)[:, None]
        needed = np.arange(columns) < lengths[:, None]
        self._left_out = find_padding(
            np.concatenate([np.ones(stem, bool), own.ravel(), needed.ravel()])
        )
        self._width, self._columns, self._stem = width, columns, stem
        self._index = None if layout.prompts is None else mx.array(layout.prompts)
        self._group = layout.per_prompt
        held = padding if self._index is None else padding[self._index]
        self._positions = RowPositions(
            mx.repeat(stem + width - held, self._group), held if padded else None
        )
        self._of_stem = mx.arange(stem)
        self._of_prompts = stem + mx.arange(width) - padding[:, None]  # (P, S)
        self._of_rows = self._positions.start[:, None] + mx.arange(columns)  # (B, T)
        self.offset = self.join(self._of_stem, self._of_prompts, self._of_rows)
        """(M,) the position of each token."""
        self._prompt_mask: mx.array | str | None = None

    def split(self, tokens: mx.array) -> list[mx.array]:
        """Packed tokens (M, ...) of stem (C, ...), of prompts (P, S, ...), of rows (B, T, ...)."""
        if self._left_out is not None:
            tokens = self._left_out.insert(tokens)
        end = self._stem + len(self._padding) * self._width
        if self._stem:
            stem, prompts, rows = mx.split(tokens, [self._stem, end])
        else:  # an empty part would take operations too, forward and backward
            stem, (prompts, rows) = tokens[:0], mx.split(tokens, [end])
        rest = tokens.shape[1:]
        return [
            stem,
            prompts.reshape(-1, self._width, *rest),
            rows.reshape(-1, self._columns, *rest),
        ]

    def join(self, stem: mx.array, prompts: mx.array, rows: mx.array) -> mx.array:
        """Tokens of stem, prompts and rows packed together, (M, ...): the inverse of `split`."""
        parts = [stem] if self._stem else []
        parts += [part.reshape(-1, *part.shape[2:]) for part in (prompts, rows)]
        tokens = mx.concatenate(parts)
        return tokens if self._left_out is None else self._left_out.remove(tokens)

    def caches(
        self, keys: mx.array, values: mx.array
    ) -> tuple[tuple[mx.array, mx.array], GrowingCache, ForkedCache]:
        """Keys and values of the stem (1, H, C, D), and caches of prompts and of rows, filled.

        Args:
            keys: packed, (M, H, 1, D).
            values: in the shape of the keys.
        """
        of_stem, of_prompts, of_rows = zip(*map(self._by_heads, (keys, values)))
        held = GrowingCache(self._padding, self._padded)
        held.update_and_fetch(*of_prompts)
        if self._stem:
            count = len(self._padding)
            held.update_and_fetch(
                *(mx.broadcast_to(part, (count, *part.shape[1:])) for part in of_stem)
            )
        forks = ForkedCache(
            held if self._index is None else held.gather(self._index),
            self._group,
            positions=self._positions,
        )
        forks.update_and_fetch(*of_rows)
        return of_stem, held, forks

    def _by_heads(self, array: mx.array) -> list[mx.array]:
        """Packed (M, H, 1, D) as (1, H, C, D), (P, H, S, D) and (B, H, T, D)."""
        stem, prompts, rows = self.split(array[:, :, 0])
        return [part.swapaxes(1, 2) for part in (stem[None], prompts, rows)]

    def mask(self) -> mx.array | str | None:
        """The mask of the prompts' queries, over their own columns and the stem's."""
        if self._prompt_mask is None:
            empty = GrowingCache(self._padding, self._padded)
            mask = empty.make_mask(self._width, return_array=bool(self._stem))
            if isinstance(mask, mx.array):
                mask = mx.pad(mask, [(0, 0)] * 3 + [(0, self._stem)], constant_values=True)
            self._prompt_mask = mask
        return self._prompt_mask

    def window(self, window_size: int) -> mx.array:
        """Which columns each token sees in a sliding window, (M, 1, 1, S + C + T).

        The columns are those of its prompt, of the stem, and of its row.
        """
        filled = mx.arange(self._width) >= self._padding[:, None]
        own = mx.where(filled, self._of_prompts, _NEVER)
        stem = mx.broadcast_to(self._of_stem, (len(own), self._stem))
        before = mx.concatenate([own, stem], axis=1)  # (P, S + C) the position of each column
        of_stem = mx.concatenate([mx.full((self._width,), _NEVER), self._of_stem])
        held = before if self._index is None else before[self._index]
        held = mx.repeat(held, self._group, axis=0)
        of_rows = mx.concatenate([held, self._of_rows], axis=1)  # (B, S + C + T)
        # A query in the padding sees itself, because a softmax over nothing would be NaN.
        itself = mx.arange(self._width)[:, None] == mx.arange(before.shape[1])
        by_prompts = _seen(self._of_prompts, before, window_size) | itself
        parts = _seen(self._of_stem, of_stem, window_size), by_prompts
        first, second = (
            mx.pad(part, [(0, 0)] * (part.ndim - 1) + [(0, self._columns)]) for part in parts
        )
        by_rows = _seen(self._of_rows, of_rows, window_size)
        return self.join(first, second, by_rows)[:, None, None]


def _seen(queries: mx.array, keys: mx.array, window_size: int) -> mx.array:
    """Which keys each query sees, (..., queries, keys), by the positions of both."""
    queries, keys = queries[..., None], keys[..., None, :]
    return (keys <= queries) & (keys > queries - window_size)


class PackedCache:
    """The cache of one layer in a packed forward.

    Args:
        packing: how the tokens are packed.
    """

    def __init__(self, packing: Packing):
        self._packing = packing
        self._caches: tuple[Sequence[mx.array], GrowingCache, ForkedCache] | None = None

    @property
    def offset(self) -> mx.array:
        """(M,) the position of each token."""
        return self._packing.offset

    def make_mask(
        self, n: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | None:
        """With a window, which columns each token sees, (M, 1, 1, S + C + T); else None."""
        return None if window_size is None else self._packing.window(window_size)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Take packed keys and values (M, H, 1, D), and return them unchanged."""
        self._caches = self._packing.caches(keys, values)
        return keys, values

    def attend(self, queries: mx.array, scale: float, mask: mx.array | None) -> mx.array:
        """Attention of packed queries (M, heads, 1, D); see `ForkedCache.attend`."""
        assert self._caches is not None
        packing, (stem, prompts, forks) = self._packing, self._caches
        of_stem, of_prompts, of_rows = packing._by_heads(queries)
        before: mx.array | str = "causal"
        seen, over, width = packing.mask(), None, prompts.columns
        if mask is not None:
            # A query in the padding sees everything, see `Packing.window`.
            first, second, third = (~part for part in packing.split(~mask[:, :, 0]))
            before = first.swapaxes(0, 1)[None, ..., width - of_stem.shape[2] : width]
            seen, over = second.swapaxes(1, 2)[..., :width], third.swapaxes(1, 2)
        assert prompts.keys is not None and prompts.values is not None
        keys, values = prompts.keys, prompts.values
        after = forks.attend(of_rows, scale, over)
        middle = scaled_dot_product_attention(of_prompts, keys, values, prompts, scale, seen)
        if of_stem.shape[2]:
            keys, values = stem
            of_stem = scaled_dot_product_attention(of_stem, keys, values, prompts, scale, before)
        first, *others = (part.swapaxes(1, 2) for part in (of_stem, middle, after))
        return packing.join(first[0], *others)[:, :, None]
