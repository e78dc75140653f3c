"""Prompts and continuations in one forward, against one after the other."""

import mlx.core as mx
import numpy as np
import pytest

from textenv.algos.lm.cache.forking import fork_caches
from textenv.algos.lm.cache.kv_cache import GrowingCache
from textenv.algos.lm.cache.layout import lay_out
from textenv.algos.lm.cache.packed import PackedCache, Packing
from textenv.algos.lm.cache.positions import pad_left
from textenv.algos.lm.kernels.attention import scaled_dot_product_attention

HEADS, KV_HEADS, SIZE, COLUMNS = 4, 2, 8, 5

# Prompts' lengths, and the prompt that each row continues.
LAYOUTS = {
    "even": ([6, 6], [0, 0, 0, 1, 1, 1]),
    "ragged": ([6, 2, 4], [0, 0, 1, 1, 2, 2]),
    "idle places": ([3, 6], [0, 0, 0, 1, 1]),
    "alone": ([5, 3], [0, 1]),
    "unused": ([5, 3, 4], [0, 0, 2, 2]),
    "held twice": ([3, 5], [0] * 7 + [1] * 2),
}


class Model:
    shares_prompts = True


def by_heads(tokens):
    """(B, T, H, D) as mlx-lm has it, (B, H, T, D)."""
    return tokens.swapaxes(1, 2)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("name", LAYOUTS)
def test_attention_and_gradients_are_those_of_two_forwards(name, window):
    lengths, index = LAYOUTS[name]
    ids, padding, padded = pad_left([[0] * length for length in lengths])
    layout = lay_out(np.array(index), len(lengths))
    prompts, width = ids.shape
    places = len(layout.slots)
    rng = np.random.default_rng(0)

    def normal(*shape):
        return mx.array(rng.normal(size=shape).astype(np.float32))

    shapes = [(HEADS, SIZE), (KV_HEADS, SIZE), (KV_HEADS, SIZE)]
    arrays = [normal(prompts, width, *shape) for shape in shapes]
    arrays += [normal(places, COLUMNS, *shape) for shape in shapes]
    weights = normal(prompts, width, HEADS, SIZE), normal(places, COLUMNS, HEADS, SIZE)

    def apart(q, k, v, q2, k2, v2):
        cache = GrowingCache(padding, padded)
        mask = cache.make_mask(width, window_size=window)
        cache.update_and_fetch(by_heads(k), by_heads(v))
        first = scaled_dot_product_attention(
            by_heads(q), cache.keys, cache.values, cache, 0.3, mask
        )
        (fork,) = fork_caches(Model, [cache], layout)
        mask = fork.make_mask(COLUMNS, window_size=window)
        fork.update_and_fetch(by_heads(k2), by_heads(v2))
        return first.swapaxes(1, 2), fork.attend(by_heads(q2), 0.3, mask).swapaxes(1, 2)

    def together(q, k, v, q2, k2, v2):
        packing = Packing(padding, padded, width, layout, COLUMNS)
        cache = PackedCache(packing)
        queries, keys, values = (
            packing.join(*pair)[:, :, None] for pair in ((q, q2), (k, k2), (v, v2))
        )
        mask = cache.make_mask(1, window_size=window)
        keys, values = cache.update_and_fetch(keys, values)
        out = scaled_dot_product_attention(queries, keys, values, cache, 0.3, mask)
        return tuple(packing.split(out[:, :, 0]))

    seen = np.arange(width) >= np.array(padding)[:, None]  # in the padding anything may be
    masked = [weights[0] * mx.array(seen[..., None, None].astype(np.float32)), weights[1]]
    for function in (apart, together):
        outputs, slopes = mx.vjp(function, arrays, masked)
        if function is apart:
            expected = outputs, slopes
            continue
        found = [outputs[0] * mx.array(seen[..., None, None]), outputs[1]]
        wanted = [expected[0][0] * mx.array(seen[..., None, None]), expected[0][1]]
        for a, b in zip(found + slopes, wanted + expected[1]):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    assert all(mx.abs(slope).max().item() > 0.1 for slope in slopes)


def test_positions_count_from_each_prompt_s_first_token():
    _, padding, padded = pad_left([[0, 0, 0], [0]])
    packing = Packing(padding, padded, 3, lay_out(np.array([0, 0, 1, 1]), 2), 2)
    prompts, rows = packing.split(packing.offset)
    assert prompts.tolist() == [[0, 1, 2], [-2, -1, 0]]
    assert rows.tolist() == [[3, 4], [3, 4], [1, 2], [1, 2]]
