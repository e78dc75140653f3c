"""SwiGLU and tanh for CPUs, where MLX computes exponentials one at a time.

The gate of a feed-forward layer, ``silu(gate) * x``, costs a CPU as much as the layer's matrix
products; so does the tanh of a small network. Here both come from a rational approximation of
tanh, of degree 13 over 6 with the coefficients of Eigen's ``generic_fast_tanh_float``, in
multiplications that the compiler turns into vector instructions: equal to float32 rounding, some
four times faster forward and backward.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import cast

from textenv.algos import backend

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402

_ODD = (
    *(4.89352455891786e-03, 6.37261928875436e-04, 1.48572235717979e-05, 5.12229709037114e-08),
    *(-8.60467152213735e-11, 2.00018790482477e-13, -2.76076847742355e-16),
)
_EVEN = (4.89352518554385e-03, 2.26843463243900e-03, 1.18534705686654e-04, 1.19825839466702e-06)
_SATURATED = 7.9  # |tanh| is 1 in float32 beyond this


def use_fast_swiglu(model: nn.Module) -> None:
    """Let an mlx-lm model compute its feed-forward gates by `swiglu`, where it runs on a CPU.

    The function is replaced in the module of the architecture, so for all models of its kind in
    this process.
    """
    module = sys.modules[type(model).__module__]
    if mx.default_device() == mx.cpu and hasattr(module, "swiglu"):
        module.swiglu = swiglu  # type: ignore[attr-defined]


def swiglu(gate: mx.array, x: mx.array) -> mx.array:
    """``silu(gate) * x``, elementwise; fast in float32, MLX's own in other types."""
    if gate.dtype != mx.float32 or x.dtype != mx.float32:
        return nn.silu(gate) * x
    return cast(mx.array, _swiglu(gate, x))


@mx.custom_function
def _swiglu(gate: mx.array, x: mx.array) -> mx.array:
    return _forward(gate, x)


@_swiglu.vjp
def _swiglu_vjp(
    primals: tuple[mx.array, mx.array], cotangent: mx.array, output: mx.array
) -> tuple[mx.array, mx.array]:
    return _backward(*primals, cotangent)


@partial(mx.compile, shapeless=True)
def _forward(gate: mx.array, x: mx.array) -> mx.array:
    return gate * _sigmoid(gate) * x


@partial(mx.compile, shapeless=True)
def _backward(gate: mx.array, x: mx.array, cotangent: mx.array) -> tuple[mx.array, mx.array]:
    s = _sigmoid(gate)
    return cotangent * x * s * (1 + gate * (1 - s)), cotangent * gate * s


def tanh(x: mx.array) -> mx.array:
    """Hyperbolic tangent, elementwise; fast in float32 on a CPU, MLX's own elsewhere."""
    if x.dtype != mx.float32 or mx.default_device() != mx.cpu:
        return mx.tanh(x)
    return cast(mx.array, _fast_tanh(x))


@mx.custom_function
def _fast_tanh(x: mx.array) -> mx.array:
    return _rational_tanh(x)


@_fast_tanh.vjp
def _fast_tanh_vjp(primal: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    return cotangent * (1 - output * output)


def _sigmoid(x: mx.array) -> mx.array:
    return 0.5 + 0.5 * _rational_tanh(0.5 * x)


def _rational_tanh(x: mx.array) -> mx.array:
    x = mx.clip(x, -_SATURATED, _SATURATED)
    square = x * x
    numerator, denominator = mx.array(_ODD[-1]), mx.array(_EVEN[-1])
    for coefficient in _ODD[-2::-1]:
        numerator = numerator * square + coefficient
    for coefficient in _EVEN[-2::-1]:
        denominator = denominator * square + coefficient
    return x * numerator / denominator
