"""Sums in blocks, against NumPy's in float64."""

import mlx.core as mx
import numpy as np
import pytest

from textenv.algos.lm.kernels.block_sums import (
    BLOCK,
    block_cumsum,
    block_max,
    block_sum,
    split_blocks,
)

SIZES = [1, 255, 256, 257, 1000, 1024, 1500, 49_152, 151_936]


@pytest.mark.parametrize("size", SIZES)
def test_sums_and_cumulative_sums_are_right_to_float32(size):
    x = np.random.default_rng(size).random((2, 3, size)).astype(np.float32)
    exact = x.astype(np.float64).cumsum(-1)
    np.testing.assert_allclose(block_sum(mx.array(x)), exact[..., -1], rtol=2e-6)
    kept = block_sum(mx.array(x), keepdims=True)
    assert kept.shape == (2, 3, 1)
    np.testing.assert_allclose(block_cumsum(mx.array(x)), exact, rtol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_the_largest_number_is_found_wherever_it_is(size):
    x = np.random.default_rng(size).normal(size=(3, 2, size)).astype(np.float32)
    x[:, 0, 0], x[:, 1, -1] = 9, 8
    x[2, 1] = -np.inf
    found = block_max(mx.array(x))
    np.testing.assert_array_equal(found, x.max(-1))
    assert block_max(mx.array(x), keepdims=True).shape == (3, 2, 1)
    np.testing.assert_array_equal(block_max(mx.array(x.T.copy()).T), x.max(-1))


@pytest.mark.parametrize("size", [49_152, 151_936])
def test_small_numbers_beside_a_large_one_are_not_lost(size):
    """Each is less than half of the last place of 1, so that adding one by one loses them all."""
    x = np.full((1, size), 5e-8, np.float32)
    x[0, 0] = 1
    exact = x.astype(np.float64).sum()
    assert block_sum(mx.array(x)).item() == pytest.approx(exact, rel=5e-5)
    assert block_cumsum(mx.array(x))[0, -1].item() == pytest.approx(exact, rel=5e-5)
    assert exact > 1.002


def test_the_squares_of_many_weights():
    x = mx.ones((20_000_000,))
    assert block_sum(x).item() == 20_000_000


@pytest.mark.parametrize("size", [10, 1500])
def test_the_gradient_of_a_sum(size):
    x = mx.array(np.random.default_rng(0).normal(size=(2, size)).astype(np.float32))
    gradient = mx.grad(lambda x: (mx.array([2.0, 3.0]) * block_sum(x * x)).sum())(x)
    np.testing.assert_allclose(gradient, 2 * np.array(x) * [[2], [3]], rtol=1e-6)


def test_a_view_that_is_not_contiguous():
    x = np.random.default_rng(0).random((3000, 4)).astype(np.float32)
    np.testing.assert_allclose(block_sum(mx.array(x).T), x.astype(np.float64).sum(0), rtol=1e-6)


def test_blocks_hold_the_numbers_in_order():
    blocks = np.array(split_blocks(mx.arange(1, BLOCK + 4)[None]))
    assert blocks.shape == (1, 2, BLOCK)
    assert blocks.reshape(-1)[: BLOCK + 3].tolist() == list(range(1, BLOCK + 4))
    assert not blocks[0, 1, 3:].any()
