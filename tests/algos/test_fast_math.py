"""The CPU's SwiGLU against its definition in float64, and against MLX's own."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from textenv.algos import fast_math


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
