"""Runs prompts through the model, for rows that continue them.

Attention takes the prompts padded. If there is much padding, it goes through nothing else.

Shapes: P prompts, C tokens that all of them begin with, T tokens of the longest after these, S
columns of the caches, K tokens without most of the padding, H key-value heads, D head dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402

from textenv.algos.lm.cache.kv_cache import (  # noqa: E402
    ForkedCache,
    GrowingCache,
    positions_of,
)
from textenv.algos.lm.cache.padding import Padding, find_padding  # noqa: E402
from textenv.algos.lm.cache.positions import pad_left  # noqa: E402
from textenv.algos.lm.kernels.attention import scaled_dot_product_attention  # noqa: E402

Body = Callable[..., mx.array]


def prefill(
    body: Body,
    layers: int,
    prompts: Sequence[Sequence[int]],
    width: int = 0,
    packed: bool = False,
) -> tuple[list[GrowingCache], mx.array]:
    """Caches of prompts, and the hidden state (P, D) of each prompt's last token.

    Args:
        body: a function of tokens and caches that gives hidden states.
        layers: how many caches the body takes.
        prompts: the token ids of P prompts.
        width: the least S.
        packed: whether the body computes the same if each token is a row of its own, with a cache
            that does the attention.
    """
    ids, padding, padded = pad_left(prompts, width)
    caches = [GrowingCache(padding, padded) for _ in range(layers)]
    lengths = np.array(list(map(len, prompts)))
    if packed:
        filled = np.arange(ids.shape[1]) >= ids.shape[1] - lengths[:, None]
        last = np.full(len(prompts), ids.shape[1] - 1)
        return caches, _without_padding(body, ids, filled, caches, last)
    return caches, body(ids, caches)[:, -1]


def prefill_after(
    body: Body, layers: int, prompts: Sequence[Sequence[int]], stem: int, width: int = 0
) -> tuple[list[GrowingCache], mx.array]:
    """What `prefill` gives, for prompts that begin alike, which goes through the model once.

    Args:
        body: as in `prefill`; packed.
        layers: as in `prefill`.
        prompts: the token ids of P prompts, each longer than ``stem``.
        stem: C.
        width: the least S.
    """
    count, lengths = len(prompts), np.array(list(map(len, prompts)), np.int32)
    before = [GrowingCache(mx.array([0]), padded=False) for _ in range(layers)]
    body(mx.array([list(prompts[0][:stem])]), before)
    positions = positions_of(before[0], count)
    after = [ForkedCache(cache, count, positions=positions) for cache in before]
    rests = np.zeros((count, lengths.max() - stem), np.int32)
    for row, prompt in zip(rests, prompts):
        row[: len(prompt) - stem] = prompt[stem:]
    last = lengths - stem - 1
    filled = np.arange(rests.shape[1]) <= last[:, None]
    hidden = _without_padding(body, mx.array(rests), filled, after, last)

    columns = max(width, lengths.max())
    padding = columns - lengths
    # Columns of padding may hold anything.
    index = mx.array(np.maximum(np.arange(columns) - padding[:, None], 0))[:, None, :, None]

    def aligned(shared: mx.array, own: mx.array) -> mx.array:
        """Keys or values (1, H, C, D) and (1, H, P, T, D) as (P, H, S, D), padded on the left."""
        shared = mx.broadcast_to(shared, (count, *shared.shape[1:]))
        whole = mx.concatenate([shared, own[0].swapaxes(0, 1)], axis=2)
        return mx.take_along_axis(whole, index, axis=2) if padding.any() else whole

    caches = []
    for fork in after:
        cache = GrowingCache(mx.array(padding), bool(padding.any()))
        cache.update_and_fetch(*map(aligned, fork.shared, fork.own))
        caches.append(cache)
    return caches, hidden


def _without_padding(
    body: Body,
    ids: mx.array,
    filled: np.ndarray,
    caches: Sequence[GrowingCache | ForkedCache],
    last: np.ndarray,
) -> mx.array:
    """The hidden state (P, D) of a token of each row.

    Args:
        body: as in `prefill`; packed.
        ids: (P, T).
        filled: (P, T) whether there is a token.
        caches: those of the layers, which are filled.
        last: (P,) the column of the token.
    """
    padding = find_padding(filled.ravel())
    places = np.arange(len(last)) * ids.shape[1] + last
    if padding is None:
        return mx.flatten(body(ids, caches), 0, 1)[mx.array(places)]
    positions = (caches[0].offset[:, None] + mx.arange(ids.shape[1])).reshape(-1)
    offset = padding.remove(positions)
    packed = [UnpaddedCache(cache, padding, ids.shape, offset) for cache in caches]
    hidden = body(padding.remove(ids.reshape(-1))[:, None], packed)[:, 0]
    return hidden[mx.array(np.cumsum(padding.kept)[places] - 1)]


class UnpaddedCache:
    """A layer's cache of P rows of T columns, which takes their tokens one by one.

    Args:
        cache: the cache that is filled.
        padding: the padding among the P x T places.
        shape: P and T.
        offset: (K,) the position of each token.
    """

    def __init__(
        self,
        cache: GrowingCache | ForkedCache,
        padding: Padding,
        shape: Sequence[int],
        offset: mx.array,
    ):
        self._cache, self._padding, self._shape, self.offset = cache, padding, shape, offset
        self._held: tuple[mx.array, mx.array] | None = None

    def make_mask(
        self, n: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | str | None:
        """The mask of all P x T places, for `attend`."""
        return self._cache.make_mask(self._shape[1], return_array, window_size)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Take keys and values (K, H, 1, D), and return them unchanged."""
        self._held = self._cache.update_and_fetch(self._by_rows(keys), self._by_rows(values))
        return keys, values

    def attend(self, queries: mx.array, scale: float, mask: mx.array | str | None) -> mx.array:
        """Attention of queries (K, heads, 1, D) over the columns of their rows."""
        assert self._held is not None
        out = scaled_dot_product_attention(
            self._by_rows(queries), *self._held, self._cache, scale, mask
        )
        return self._padding.remove(mx.flatten(out.swapaxes(1, 2), 0, 1))[:, :, None]

    def _by_rows(self, tokens: mx.array) -> mx.array:
        """Tokens (K, H, 1, D) as (P, H, T, D)."""
        places = self._padding.insert(tokens[:, :, 0])
        return places.reshape(*self._shape, *places.shape[1:]).swapaxes(1, 2)
