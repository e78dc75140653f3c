"""The CPU's SwiGLU against its definition in float64, and against MLX's own."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from textenv.algos.lm.kernels import fast_math


def test_the_sigmoid_is_right_to_float32_everywhere():
    x = np.concatenate([np.linspace(-50, 50, 100_001), [-1e30, -1e-30, 0.0, 1e-30, 1e30]])
    x = x.astype(np.float32)
    with np.errstate(over="ignore"):
        expected = 1 / (1 + np.exp(-x.astype(np.float64)))
    got = np.array(fast_math._sigmoid(mx.array(x)))
    assert np.abs(got - expected).max() < 4e-7


def test_values_and_gradients_are_those_of_silu():
    rng = np.random.default_rng(0)
    gate, x, cotangent = (mx.array(3 * rng.normal(size=(7, 33)).astype(np.float32)) for _ in "abc")

    def plain(gate, x):
        return nn.silu(gate) * x

    (value,), gradients = mx.vjp(fast_math.swiglu, [gate, x], [cotangent])
    (expected,), wanted = mx.vjp(plain, [gate, x], [cotangent])
    for a, b in zip([value, *gradients], [expected, *wanted]):
        assert mx.allclose(a, b, rtol=1e-5, atol=1e-5).item()


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_other_types_take_mlx_own(dtype):
    gate, x = mx.array([-2.0, 0.5], dtype=dtype), mx.array([1.0, 3.0], dtype=dtype)
    assert mx.array_equal(fast_math.swiglu(gate, x), nn.silu(gate) * x).item()


@pytest.mark.skipif(mx.default_device() != mx.cpu, reason="only on a CPU")
def test_a_model_takes_it_and_answers_alike(fresh):
    import sys

    from mlx_lm.models.activations import swiglu as own

    model, _ = fresh
    module = sys.modules[type(model).__module__]
    assert module.swiglu is fast_math.swiglu
    ids = mx.array([[3, 1, 4, 1, 5, 9, 2, 6]])
    fast = model(ids)
    module.swiglu = own
    try:
        plain = model(ids)
    finally:
        module.swiglu = fast_math.swiglu
    assert mx.allclose(fast, plain, rtol=1e-4, atol=1e-5).item()


def test_exponentials_are_right_to_float32_below_the_top():
    x = np.linspace(-120, 0, 200_001).astype(np.float32)
    got = np.array(fast_math.exp_below(mx.array(x), mx.array(0.0)))
    expected = np.exp(x.astype(np.float64))
    normal = expected > 2.0**-126
    assert np.abs(got / np.where(normal, expected, 1) - 1)[normal].max() < 2e-7
    assert (got[x < -88] == 0).all()
    minus_inf = fast_math.exp_below(mx.array([-np.inf, 3.0]), mx.array(3.0))
    assert minus_inf.tolist() == [0, 1]
    assert np.isnan(np.array(fast_math.exp_below(mx.array([np.nan]), mx.array(0.0)))).all()


@pytest.mark.parametrize("name", ["softmax", "logsumexp"])
def test_sums_of_exponentials_and_their_gradients(name):
    rng = np.random.default_rng(0)
    x = (8 * rng.normal(size=(6, 50))).astype(np.float32)
    x[:, ::7] = -np.inf
    wide = x.astype(np.float64)
    powers = np.exp(wide - wide.max(axis=1, keepdims=True))
    total = powers.sum(axis=1, keepdims=True)
    probs = powers / total
    cotangent = rng.normal(size=(6, 50) if name == "softmax" else 6).astype(np.float32)
    if name == "softmax":
        expected = probs
        gradient = probs * (cotangent - (cotangent * probs).sum(axis=1, keepdims=True))
    else:
        expected = (np.log(total) + wide.max(axis=1, keepdims=True))[:, 0]
        gradient = cotangent[:, None] * probs
    function = getattr(fast_math, name)
    (value,), (slope,) = mx.vjp(function, [mx.array(x)], [mx.array(cotangent)])
    np.testing.assert_allclose(np.array(value), expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(np.array(slope), gradient, rtol=1e-5, atol=1e-6)


def test_tanh_and_its_gradient():
    x = np.linspace(-12, 12, 20_001).astype(np.float32)
    (value,), (slope,) = mx.vjp(fast_math.tanh, [mx.array(x)], [mx.ones(len(x))])
    expected = np.tanh(x.astype(np.float64))
    assert np.abs(np.array(value) - expected).max() < 4e-7
    assert np.abs(np.array(slope) - (1 - expected**2)).max() < 1e-6
