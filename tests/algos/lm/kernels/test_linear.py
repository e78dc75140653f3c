"""Linear layers with gradients by rows, beside MLX's own layers."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from textenv.algos.lm.kernels.linear import gradients_by_rows
from textenv.algos.lm.models.lora import add_lora


def gradients(model, x, by_rows):
    def loss(x):
        return (mx.sin(model(x)) * mx.arange(x.shape[0])[:, None, None]).sum()

    def of_weights(x):
        return nn.value_and_grad(model, loss)(x)

    if by_rows:
        with gradients_by_rows(model):
            found = (*of_weights(x), mx.grad(loss)(x))
            mx.eval(found)
    else:
        found = (*of_weights(x), mx.grad(loss)(x))
        mx.eval(found)
    return found


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_gradients_are_those_of_mlx_and_lie_by_rows(dtype):
    mx.random.seed(0)
    model = nn.Sequential(nn.Linear(5, 7, bias=False), nn.Linear(7, 3), nn.Linear(3, 4, bias=False))
    model.set_dtype(dtype)
    x = mx.random.normal((6, 2, 5)).astype(dtype)
    (loss, own, slope), (value, expected, expected_slope) = (
        gradients(model, x, by_rows) for by_rows in (True, False)
    )
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == mx.float32 else {"rtol": 0.05, "atol": 0.5}
    assert mx.array_equal(loss, value).item()
    assert mx.allclose(slope, expected_slope, **tolerance).item()
    pairs = list(zip(tree_flatten(own), tree_flatten(expected), strict=True))
    assert len(pairs) == 4
    for (name, a), (other, b) in pairs:
        assert name == other and a.dtype == b.dtype and mx.allclose(a, b, **tolerance).item()
        if dtype == mx.float32:
            assert np.asarray(a).flags.c_contiguous
    if dtype == mx.float32:  # what this is for
        assert not np.asarray(expected["layers"][0]["weight"]).flags.c_contiguous


def test_layers_are_what_they_were_after_the_block():
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 1))
    with pytest.raises(ValueError), gradients_by_rows(model):
        assert type(model.layers[0]) is not nn.Linear and isinstance(model.layers[0], nn.Linear)
        raise ValueError
    assert [type(layer) for layer in model.layers] == [nn.Linear, nn.Linear]


def test_adapters_are_trained_as_before(random_model, tiny_config):
    model = random_model(**tiny_config)
    add_lora(model, 2, 10.0, 0)
    tokens = mx.array([[1, 2, 3]])

    def loss():
        return (model(tokens) ** 2).sum()

    expected = nn.value_and_grad(model, loss)()
    with gradients_by_rows(model):
        found = nn.value_and_grad(model, loss)()
        mx.eval(found)
    pairs = list(zip(tree_flatten(found), tree_flatten(expected), strict=True))
    assert len(pairs) > 4
    for (name, a), (_, b) in pairs:
        assert mx.allclose(a, b, rtol=1e-3, atol=1e-3).item(), name
