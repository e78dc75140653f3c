"""Prompts and continuations in one forward, against one after the other."""

import mlx.core as mx
import numpy as np
import pytest

from textenv.algos.lm.cache.forking import fork_caches
from textenv.algos.lm.cache.kv_cache import GrowingCache
from textenv.algos.lm.cache.layout import lay_out
from textenv.algos.lm.cache.packed import PackedCache, Packing, find_stem
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


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("stem", [0, 4])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("name", LAYOUTS)
def test_attention_and_gradients_are_those_of_two_forwards(name, window, stem, uneven):
    lengths, index = LAYOUTS[name]
    ids, padding, padded = pad_left([[0] * length for length in lengths])
    layout = lay_out(np.array(index), len(lengths))
    prompts, width = ids.shape
    pads = padding.tolist()
    places = len(layout.slots)
    needed = np.arange(places) * 3 % (COLUMNS + 1) if uneven else np.full(places, COLUMNS)
    rng = np.random.default_rng(0)

    def normal(*shape):
        return mx.array(rng.normal(size=shape).astype(np.float32))

    def parts(*shape):
        return [normal(*rows, *shape) for rows in ((stem,), (prompts, width), (places, COLUMNS))]

    # Queries, keys and values, each of the stem, the prompts' own columns, and the rows.
    arrays = [x for heads in (HEADS, KV_HEADS, KV_HEADS) for x in parts(heads, SIZE)]
    weights = parts(HEADS, SIZE)

    def whole(of_stem, own):
        """Prompts that all have the stem, behind their padding."""
        rows = [mx.concatenate([x[:pad], of_stem, x[pad:]]) for x, pad in zip(own, pads)]
        return by_heads(mx.stack(rows))

    def apart(*arrays):
        (q, k, v), rows = (whole(*arrays[i : i + 2]) for i in (0, 3, 6)), arrays[2::3]
        cache = GrowingCache(padding, padded)
        mask = cache.make_mask(stem + width, window_size=window)
        cache.update_and_fetch(k, v)
        first = scaled_dot_product_attention(q, cache.keys, cache.values, cache, 0.3, mask)
        (fork,) = fork_caches(Model, [cache], layout)
        mask = fork.make_mask(COLUMNS, window_size=window)
        fork.update_and_fetch(*map(by_heads, rows[1:]))
        first = by_heads(first)
        own = [mx.concatenate([x[:pad], x[pad + stem :]]) for x, pad in zip(first, pads)]
        last = fork.attend(by_heads(rows[0]), 0.3, mask)
        return first[0, pads[0] : pads[0] + stem], mx.stack(own), by_heads(last)

    def together(*arrays):
        packing = Packing(padding, padded, width, layout, COLUMNS, needed, stem)
        cache = PackedCache(packing)
        queries, keys, values = (packing.join(*arrays[i : i + 3])[:, :, None] for i in (0, 3, 6))
        mask = cache.make_mask(1, window_size=window)
        keys, values = cache.update_and_fetch(keys, values)
        out = scaled_dot_product_attention(queries, keys, values, cache, 0.3, mask)
        return tuple(packing.split(out[:, :, 0]))

    # In the padding anything may be.
    seen = np.arange(width) >= np.array(padding)[:, None], np.arange(COLUMNS) < needed[:, None]
    seen = [1, *(mx.array(part[..., None, None].astype(np.float32)) for part in seen)]
    masked = [weight * part for weight, part in zip(weights, seen)]
    for function in (apart, together):
        outputs, slopes = mx.vjp(function, arrays, masked)
        outputs = [output * part for output, part in zip(outputs, seen)]
        if function is apart:
            expected = outputs + slopes
    for a, b in zip(outputs + slopes, expected):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    assert all(mx.abs(slope).max().item() > 0.1 for slope in slopes if slope.size)


def test_positions_count_from_each_prompt_s_first_token():
    _, padding, padded = pad_left([[0, 0, 0], [0]])
    packing = Packing(padding, padded, 3, lay_out(np.array([0, 0, 1, 1]), 2), 2, np.full(4, 2), 4)
    stem, prompts, rows = packing.split(packing.offset)
    assert stem.tolist() == [0, 1, 2, 3]
    assert prompts.tolist() == [[4, 5, 6], [2, 3, 4]]  # two columns of padding in the second
    assert rows.tolist() == [[7, 8], [7, 8], [5, 6], [5, 6]]


@pytest.mark.parametrize(
    ("prompts", "least", "expected"),
    [
        ([[1, 2, 3], [1, 2, 4, 5]], 1, 2),
        ([[1, 2, 3], [1, 2, 4, 5]], 3, 0),
        ([[1, 2, 3], [1, 2, 3, 4]], 1, 2),  # the first keeps a token of its own
        ([[1], [1, 2]], 1, 0),
        ([[1, 2, 3], [2, 2, 3]], 1, 0),
        ([[1, 2, 3]], 1, 0),
        ([[1, 2, 9], [1, 3, 9], [1, 2, 9, 9]], 1, 1),
    ],
)
def test_the_stem_is_what_all_prompts_begin_with(prompts, least, expected):
    assert find_stem(prompts, least) == expected
