"""Linear layers with gradients by rows, beside MLX's own layers."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from tests.algos.shared import lowest_peak
from textenv.algos.lm.kernels import linear
from textenv.algos.lm.kernels.fast_math import swiglu, swiglu_inputs
from textenv.algos.lm.kernels.linear import gradients_by_rows
from textenv.algos.lm.models.lora import add_lora
from textenv.algos.runtime import compile


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


class Gated(nn.Module):
    """A feed-forward layer as those of mlx-lm, with a function for the gate."""

    def __init__(self, size, inner, gated):
        super().__init__()
        self.gate, self.up = (nn.Linear(size, inner, bias=False) for _ in "ab")
        self.down, self.gated = nn.Linear(inner, size, bias=False), gated

    def __call__(self, x):
        return x + self.down(self.gated(self.gate(x), self.up(x)))


def gradient_of(layers, x):
    """The gradient, by name, and the bytes that it took at the peak beyond the weights and x."""
    model = nn.Sequential(*layers)
    mx.eval(model.parameters(), x)

    def compute():
        with compile.gradients(), gradients_by_rows(model):
            value, found = nn.value_and_grad(model, lambda x: (model(x) ** 2).sum())(x)
        mx.eval(value, found)
        return dict(tree_flatten(found))

    return compute(), lowest_peak(compute)


@pytest.mark.skipif(mx.default_device() != mx.cpu, reason="only on a CPU")
def test_a_large_product_of_a_gate_is_not_kept_but_computed_again(monkeypatch):
    def wide(gate, x):  # the same function, but not the array that `swiglu` has given
        return swiglu(gate, x).reshape(x.shape)

    mx.random.seed(0)
    size, inner, rows = 16, 512, 1024
    x = mx.random.normal((rows, size))
    monkeypatch.setattr(compile, "KEPT", 0)
    peaks = []
    for count in (8, 24):
        layers = [Gated(size, inner, swiglu) for _ in range(count)]
        found, peak = gradient_of(layers, x)
        for layer in layers:
            layer.gated = wide
        expected, more = gradient_of(layers, x)
        peaks.append((peak, more))
        assert found.keys() == expected.keys() and len(found) == 3 * count
        for name, array in found.items():
            wanted = expected[name]
            assert mx.allclose(array, wanted, rtol=1e-4, atol=1e-5 * wanted.abs().max()).item()
    arrays = [(b - a) / 16 / (rows * inner * 4) for a, b in zip(*peaks)]  # kept, of one more layer
    assert arrays[0] == pytest.approx(2, abs=0.3)  # the gate, and what it is multiplied by
    assert arrays[1] > arrays[0] + 0.5  # their product too


def test_what_a_gate_took_is_told_only_of_its_own_product(monkeypatch):
    gate, x = mx.random.normal((2, 3, 4))
    monkeypatch.setattr(compile, "KEPT", 0)
    swiglu(gate, x)
    assert swiglu_inputs(mx.zeros((3, 4))) is None
    with compile.gradients():
        other, product = swiglu(gate, x), swiglu(x, gate)
        assert swiglu_inputs(other) is None and swiglu_inputs(product) is None  # forgotten
        product = swiglu(x, gate)
        told = swiglu_inputs(product)
        assert told is not None and told[0] is x and told[1] is gate
        swiglu(gate, x)
        with gradients_by_rows(nn.Linear(2, 2)):
            pass
        assert linear.swiglu_inputs(None) is None
    monkeypatch.undo()
    with compile.gradients():  # small ones are kept, with their sigmoid
        assert swiglu_inputs(swiglu(gate, x)) is None
