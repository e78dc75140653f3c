"""RMSNorm on a CPU against MLX's own, values and gradients."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from textenv.algos.lm.kernels.rms_norm import FastRMSNorm, use_fast_norm
from textenv.algos.runtime.compile import gradients

pytestmark = pytest.mark.skipif(mx.default_device() != mx.cpu, reason="only on a CPU")


class Two(nn.Module):
    def __init__(self, *sizes, eps=1e-5):
        super().__init__()
        self.norms = [nn.RMSNorm(size, eps) for size in sizes]


@pytest.mark.parametrize("eps", [1e-6, 0.5])
@pytest.mark.parametrize("shape", [(7, 16), (3, 1, 4, 8), (2, 5, 33)])
def test_values_and_gradients_are_mlx_own(shape, eps):
    rng = np.random.default_rng(0)
    model = Two(shape[-1], eps=eps)
    use_fast_norm(model)
    (norm,) = model.norms
    assert type(norm) is FastRMSNorm
    x, cotangent = (mx.array(rng.normal(size=shape).astype(np.float32)) for _ in range(2))
    weight = mx.array(rng.normal(size=shape[-1:]).astype(np.float32))

    def ours(x, weight):
        norm.weight = weight
        return norm(x)

    def theirs(x, weight):
        return mx.fast.rms_norm(x, weight, eps)

    expected = mx.vjp(theirs, [x, weight], [cotangent])
    with gradients():
        found = mx.vjp(ours, [x, weight], [cotangent])
    for got, wanted in zip(found[0] + found[1], expected[0] + expected[1]):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_a_row_has_one_root_where_it_is_compiled(tmp_path):
    """MLX's own takes it again for each number of the row, within one compiled function."""
    model = Two(16)
    use_fast_norm(model)
    compiled = mx.compile(model.norms[0])
    compiled(mx.ones((3, 16)))
    mx.export_to_dot(str(tmp_path / "graph"), compiled(mx.ones((3, 16))))
    graph = (tmp_path / "graph").read_text()
    roots = [line for line in graph.splitlines() if "label" in line and "Rsqrt" in line]
    assert roots
    assert all("RsqrtBroadcast" not in line for line in roots)  # nothing wider is made of it there


def test_other_types_and_classes_take_mlx_own():
    class Own(nn.RMSNorm):
        pass

    model = Two(8)
    model.norms.append(Own(8))
    use_fast_norm(model)
    assert type(model.norms[1]) is Own
    x = mx.arange(16.0).reshape(2, 8).astype(mx.float16)
    assert mx.array_equal(model.norms[0](x), nn.RMSNorm(8, 1e-5)(x)).item()


def test_a_loaded_model_has_it(tiny):
    norms = [module for module in tiny[0].modules() if isinstance(module, nn.RMSNorm)]
    assert norms
    assert {type(norm) for norm in norms} == {FastRMSNorm}
