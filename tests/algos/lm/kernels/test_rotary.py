"""Rotary embeddings against MLX's own, values and gradients."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from textenv.algos.lm.kernels.rotary import FastRoPE, use_fast_rope

pytestmark = pytest.mark.skipif(mx.default_device() != mx.cpu, reason="only on a CPU")


class Two(nn.Module):
    """Two layers that share their angles."""

    def __init__(self, dims, base, scale):
        super().__init__()
        self.ropes = [nn.RoPE(dims, base=base, scale=scale) for _ in range(2)]


@pytest.mark.parametrize("dims", [8, 6], ids=["all", "some"])
@pytest.mark.parametrize(("base", "scale"), [(10000.0, 1.0), (5e5, 0.25)])
@pytest.mark.parametrize("offset", ["rows", "number"])
def test_values_and_gradients_are_mlx_own(dims, base, scale, offset):
    rng = np.random.default_rng(0)
    model = Two(dims, base, scale)
    use_fast_rope(model)
    plain = nn.RoPE(dims, base=base, scale=scale)
    for length in (5, 1, 5):
        x, cotangent = (
            mx.array(rng.normal(size=(3, length, 2, 8)).astype(np.float32)).swapaxes(1, 2)
            for _ in range(2)
        )
        start = mx.array([0, 7, 900]) if offset == "rows" else 11
        (expected,), (slope,) = mx.vjp(lambda y: plain(y, offset=start), [x], [cotangent])  # noqa: B023
        for rope in model.ropes:
            assert type(rope) is FastRoPE
            (value,), (own,) = mx.vjp(lambda y: rope(y, offset=start), [x], [cotangent])  # noqa: B023
            assert mx.allclose(value, expected, rtol=1e-6, atol=1e-6).item()
            assert mx.allclose(own, slope, rtol=1e-6, atol=1e-6).item()


def test_other_types_and_pairs_take_mlx_own():
    model = Two(8, 10000.0, 1.0)
    model.pairs = nn.RoPE(8, traditional=True)
    use_fast_rope(model)
    assert type(model.pairs) is nn.RoPE
    x = mx.arange(16.0).reshape(1, 1, 2, 8).astype(mx.float16)
    assert mx.array_equal(model.ropes[0](x, offset=3), nn.RoPE(8)(x, offset=3)).item()


def test_a_loaded_model_has_it(tiny):
    ropes = [module for module in tiny[0].modules() if isinstance(module, nn.RoPE)]
    assert ropes
    assert {type(rope) for rope in ropes} == {FastRoPE}
    assert len({id(rope.angles) for rope in ropes}) == 1
