"""Runs prompts through the model, for rows that continue them.

Shapes: P prompts, C tokens that all of them begin with, T tokens of the longest after these, S
columns of the caches, H key-value heads, D head dimension.
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
from textenv.algos.lm.cache.positions import pad_left  # noqa: E402

Body = Callable[..., mx.array]


def prefill(
    body: Body, layers: int, prompts: Sequence[Sequence[int]], width: int = 0
) -> tuple[list[GrowingCache], mx.array]:
    """Caches of prompts, and the hidden state (P, D) of each prompt's last token.

    Args:
        body: a function of tokens and caches that gives hidden states.
        layers: how many caches the body takes.
        prompts: the token ids of P prompts.
        width: the least S.
    """
    ids, padding, padded = pad_left(prompts, width)
    caches = [GrowingCache(padding, padded) for _ in range(layers)]
    return caches, body(ids, caches)[:, -1]


def prefill_after(
    body: Body, layers: int, prompts: Sequence[Sequence[int]], stem: int, width: int = 0
) -> tuple[list[GrowingCache], mx.array]:
    """What `prefill` gives, for prompts that begin alike, which goes through the model once.

    Args:
        body: as in `prefill`.
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
    hidden = body(mx.array(rests), after)

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
    return caches, hidden[mx.arange(count), mx.array(lengths - stem - 1)]
