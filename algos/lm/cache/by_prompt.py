"""Computes attention for rows that share prompts, prompt by prompt.

Shapes: as in `textenv.algos.lm.cache.kv_cache`; R query heads for each key-value head.
"""

from __future__ import annotations

from collections.abc import Sequence

from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402

from textenv.algos.lm.kernels.attention import KeyBlock, as_bias, attend  # noqa: E402


def by_prompt(columns: mx.array, per_prompt: int) -> mx.array:
    """Keys or values (B, H, N, D) of rows, grouped by prompt: (P, H, G, N, D)."""
    rows = columns.reshape(-1, per_prompt, *columns.shape[1:])
    return rows.transpose(0, 2, 1, 3, 4)


def split_mask(mask: mx.array, per_prompt: int, width: int) -> tuple[mx.array, mx.array]:
    """What a mask adds to the scores of the prompts' columns, and to those of the rows' own.

    Args:
        mask: (B, 1, N, S + T), True if a query sees a column.
        per_prompt: G.
        width: S.

    Returns:
        (P, 1, G, 1, N, S) and (P, 1, G, 1, N, T).
    """
    bias = as_bias(mask, *mask.shape[-2:])
    assert bias is not None
    bias = bias.reshape(-1, per_prompt, 1, 1, *mask.shape[-2:]).transpose(0, 2, 1, 3, 4, 5)
    return bias[..., :width], bias[..., width:]


def attend_by_prompt(
    queries: mx.array,
    scale: float,
    own: KeyBlock,
    shared: Sequence[mx.array],
    over_prompt: mx.array | None,
) -> mx.array:
    """Attention of rows over their own columns and over those of the prompts that they share.

    Args:
        queries: (B, heads, N, D).
        scale: what the queries are multiplied by.
        own: the rows' own columns, (P, H, G, T, D).
        shared: keys and values (P, H, S, D) of the prompts; empty if the rows share none.
        over_prompt: what is added to the scores of the prompts' columns.

    Returns:
        (B, heads, N, D).
    """
    prompts, heads_kv, group = own.keys.shape[:3]
    count, heads, length, size = queries.shape
    blocks = [own]
    if shared:
        keys, values = shared
        blocks.insert(0, KeyBlock(keys[:, :, None], values[:, :, None], over_prompt))
    split = (queries * scale).reshape(prompts, group, heads_kv, -1, length, size)
    # (P, H, G, R, N, D); laid out in memory once, and not for each product.
    out = attend(mx.contiguous(split.transpose(0, 2, 1, 3, 4, 5)), blocks)
    return out.transpose(0, 2, 1, 3, 4, 5).reshape(count, heads, length, -1)
