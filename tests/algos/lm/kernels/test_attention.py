"""Attention over shared prompts against the plain formula, forward and backward."""

import mlx.core as mx
import numpy as np
import pytest

from textenv.algos.lm.cache.kv_cache import ForkedCache, GrowingCache
from textenv.algos.lm.kernels.attention import (
    KeyBlock,
    as_bias,
    attend,
    scaled_dot_product_attention,
)

rng = np.random.default_rng(0)


def normal(*shape):
    return mx.array(rng.normal(size=shape).astype(np.float32))


def plain(queries, keys, values, scale, bias=None):
    """Softmax attention as it is written in textbooks, every head with keys of its own."""
    repeats = queries.shape[1] // keys.shape[1]
    keys, values = mx.repeat(keys, repeats, axis=1), mx.repeat(values, repeats, axis=1)
    scores = scale * queries @ keys.swapaxes(-1, -2)
    if bias is not None:
        scores = scores + bias
    return mx.softmax(scores, axis=-1) @ values


def close(got, expected, tolerance=1e-5):
    got, expected = np.array(got), np.array(expected)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= tolerance * np.abs(expected).max()


MASKS = {
    "none": lambda b, h, n, s: None,
    "causal": lambda b, h, n, s: "causal",
    "bool": lambda b, h, n, s: mx.array(rng.random((b, 1, n, s)) < 0.7) | (mx.arange(s) == 0),
    "added": lambda b, h, n, s: normal(b, 1, n, s),
    "of heads": lambda b, h, n, s: normal(1, h, n, s),
    "square": lambda b, h, n, s: mx.arange(s - n, s)[:, None] >= mx.arange(s),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (3, 1)])
def test_values_and_gradients_are_those_of_the_formula(mask, heads, groups):
    batch, length, columns, size = 3, 5, 9, 8
    arrays = (
        normal(batch, heads, length, size),
        *(normal(batch, groups, columns, size) for _ in range(2)),
    )
    mask = MASKS[mask](batch, heads, length, columns)
    bias = as_bias(mask, length, columns)
    cotangent = normal(batch, heads, length, size)

    def ours(q, k, v):
        return scaled_dot_product_attention(q, k, v, None, 0.3, mask)

    (got,), gradients = mx.vjp(ours, arrays, [cotangent])
    (expected,), wanted = mx.vjp(lambda *a: plain(*a, 0.3, bias), arrays, [cotangent])
    close(got, expected)
    for a, b in zip(gradients, wanted):
        close(a, b)
    fused = mx.fast.scaled_dot_product_attention(
        *arrays, scale=0.3, mask="causal" if mask == "causal" else bias
    )
    close(got, fused)


def test_scores_that_are_added_have_a_gradient():
    """As multi-head latent attention needs: a part of its scores comes in as the mask."""
    arrays = [normal(2, 4, 5, 8), normal(2, 2, 9, 8), normal(2, 2, 9, 8), normal(2, 4, 5, 9)]

    def ours(q, k, v, added):
        return scaled_dot_product_attention(q, k, v, None, 0.3, added)

    cotangent = normal(2, 4, 5, 8)
    _, gradients = mx.vjp(ours, arrays, [cotangent])
    _, wanted = mx.vjp(lambda q, k, v, b: plain(q, k, v, 0.3, b), arrays, [cotangent])
    for a, b in zip(gradients, wanted):
        close(a, b)
    prompts = GrowingCache(mx.array([0]), padded=False)
    prompts.update_and_fetch(normal(1, 2, 6, 4), normal(1, 2, 6, 4))
    fork = ForkedCache(prompts, 2)
    with pytest.raises(ValueError, match="added scores cannot be combined"):
        scaled_dot_product_attention(*arrays[:3], fork, 0.3, arrays[3])


def test_keys_in_parts_are_as_keys_in_one():
    """A part that continuations share and one of their own, against both joined for each."""
    prompts, groups, copies, repeats, length, size = 2, 2, 3, 2, 4, 8
    queries = normal(prompts, groups, copies, repeats, length, size)
    shared = [normal(prompts, groups, 1, 7, size) for _ in range(2)]
    own = [normal(prompts, groups, copies, 5, size) for _ in range(2)]
    hidden = mx.array([0, 3])[:, None] > mx.arange(7)  # the second prompt is padded
    over_shared = mx.where(hidden, -mx.inf, 0.0).reshape(prompts, 1, 1, 1, 1, 7)
    over_own = normal(length, 5)[None, None, None, None]

    def ours(q, *parts):
        return attend(q, [KeyBlock(*parts[:2], over_shared), KeyBlock(*parts[2:], over_own)])

    def joined(q, sk, sv, ok, ov):
        keys = mx.concatenate([mx.repeat(sk, copies, axis=2), ok], axis=3)[:, :, :, None]
        values = mx.concatenate([mx.repeat(sv, copies, axis=2), ov], axis=3)[:, :, :, None]
        bias = mx.concatenate(
            [
                mx.broadcast_to(over_shared, (prompts, 1, 1, 1, length, 7)),
                mx.broadcast_to(over_own, (prompts, 1, 1, 1, length, 5)),
            ],
            axis=-1,
        )
        return mx.softmax(q @ keys.swapaxes(-1, -2) + bias, axis=-1) @ values

    arrays = [queries, *shared, *own]
    cotangent = normal(*queries.shape)
    (got,), gradients = mx.vjp(ours, arrays, [cotangent])
    (expected,), wanted = mx.vjp(joined, arrays, [cotangent])
    close(got, expected)
    for a, b in zip(gradients, wanted):
        close(a, b)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision_stays_half_and_sums_in_float32(dtype):
    """Many equal scores: summed in half precision their probabilities would be off by percents."""
    queries = mx.zeros((1, 1, 2, 1, 3, 4), dtype=dtype)
    keys = normal(1, 1, 1, 4000, 4).astype(dtype)
    values = (1 + 0 * keys).astype(dtype)
    own = normal(1, 1, 2, 100, 4).astype(dtype)

    def run(q, k, v, o):
        return attend(q, [KeyBlock(k, v, None), KeyBlock(o, 1 + 0 * o, None)])

    (out,), gradients = mx.vjp(run, [queries, keys, values, own], [mx.ones_like(queries)])
    assert out.dtype == dtype and all(g.dtype == dtype for g in gradients)
    np.testing.assert_allclose(np.array(out.astype(mx.float32)), 1, rtol=1e-2)


def test_many_keys_of_little_weight_count_beside_one_of_much():
    """The value of the first key is 1, and its weight is what the other 40,000 leave."""
    count = 40_000
    keys = mx.array(np.r_[0, np.full(count, -17)].astype(np.float32)).reshape(1, 1, 1, -1, 1)
    values = (mx.arange(count + 1) == 0).astype(mx.float32).reshape(1, 1, 1, -1, 1)
    queries = mx.ones((1, 1, 1, 1, 1, 1))
    expected = 1 / (1 + count * np.exp(-17))
    got = attend(queries, [KeyBlock(keys, values, None)]).item()
    assert got == pytest.approx(expected, abs=2e-5)
    assert expected < 1 - 1e-3
