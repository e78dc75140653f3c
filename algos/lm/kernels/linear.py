"""Linear layers whose weights have gradients that lie in memory as the weights do.

MLX multiplies by the transpose of the weights, so the gradient is that of the transpose, turned
over: its rows are far apart in memory. An optimizer that reads it beside the weights and their
moments then takes nearly twice as long. Here the gradient is computed by rows, in as many
multiplications. Inputs that are a product of `swiglu` are not kept for it if they are large, but
computed again.

Shapes: K inputs and N outputs of a layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402

from textenv.algos.lm.kernels.fast_math import swiglu_inputs, swiglu_linear  # noqa: E402


@mx.custom_function
def linear(inputs: mx.array, weight: mx.array) -> mx.array:
    """Inputs (..., K) multiplied by the transpose of a weight (N, K)."""
    return inputs @ weight.T


@linear.vjp
def _linear_vjp(
    primals: Sequence[mx.array], cotangent: mx.array, _: mx.array
) -> tuple[mx.array, mx.array]:
    inputs, weight = primals
    return _slopes(inputs, weight, cotangent)


@mx.custom_function
def affine(inputs: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    """The same, with a bias (N,) added."""
    return mx.addmm(bias, inputs, weight.T)


@affine.vjp
def _affine_vjp(
    primals: Sequence[mx.array], cotangent: mx.array, _: mx.array
) -> tuple[mx.array, ...]:
    inputs, weight, _bias = primals
    of_bias = cotangent.reshape(-1, cotangent.shape[-1]).sum(axis=0)
    return *_slopes(inputs, weight, cotangent), of_bias


def _slopes(inputs: mx.array, weight: mx.array, cotangent: mx.array) -> tuple[mx.array, mx.array]:
    """The gradients by the inputs and by the weight."""
    outer = mx.matmul(mx.flatten(cotangent, 0, -2).T, mx.flatten(inputs, 0, -2))
    return mx.matmul(cotangent, weight), outer


class _Linear(nn.Linear):
    def __call__(self, x: mx.array) -> mx.array:
        factors = swiglu_inputs(x)
        if "bias" in self:
            return cast("mx.array", affine(x, self.weight, self.bias))
        if factors is not None:
            return cast("mx.array", swiglu_linear(*factors, self.weight))
        return cast("mx.array", linear(x, self.weight))


@contextmanager
def gradients_by_rows(model: nn.Module) -> Iterator[None]:
    """A block in which the linear layers of a model that are trained are called in this way.

    Args:
        model: its layers are altered only in the block.
    """
    layers = [m for m in model.modules() if type(m) is nn.Linear and m.trainable_parameters()]
    try:
        for layer in layers:
            layer.__class__ = _Linear
        yield
    finally:
        swiglu_inputs(None)  # or it would hold what a layer that is not called so has left
        for layer in layers:
            layer.__class__ = nn.Linear
