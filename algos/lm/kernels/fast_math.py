"""Fast SwiGLU, tanh and softmax for CPUs, where MLX computes exponentials one at a time.

The exponentials of a feed-forward layer's gate, or of a softmax over keys or over a vocabulary,
cost a CPU more than the matrix products around them. Here they are computed by polynomials, in
multiplications that the compiler turns into vector instructions: the results are equal up to
float32 rounding, and come four to ten times faster, forward and backward.

- tanh, and with it the sigmoid: a rational function of degree 13 over 6 with the coefficients of
  Eigen's ``generic_fast_tanh_float``.
- exp of numbers up to 0: 2^k times the exponential of a rest in [-ln 2 / 2, ln 2 / 2], as in
  Cephes' ``expf``. The rest's exponential is a polynomial of degree 6 (interpolated at Chebyshev's
  nodes, relative error 1e-8), and the power of two is set in the exponent's bits. Results below
  2^-126 are 0.

Each compiled piece here has only a few operations. MLX cuts a long one at its deepest point, so
that constants become arrays, and the C++ compiler does not vectorize a long loop: ten pieces of
0.2 ns for each element are faster than one of 3 ns.
"""

from __future__ import annotations

import sys
import threading
from typing import cast

from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402

from textenv.algos.lm.kernels.block_sums import block_max, block_sum  # noqa: E402
from textenv.algos.runtime.compile import has_backward, keeps, piece  # noqa: E402

_ODD = (
    *(4.89352455891786e-03, 6.37261928875436e-04, 1.48572235717979e-05, 5.12229709037114e-08),
    *(-8.60467152213735e-11, 2.00018790482477e-13, -2.76076847742355e-16),
)
_EVEN = (4.89352518554385e-03, 2.26843463243900e-03, 1.18534705686654e-04, 1.19825839466702e-06)
_SATURATED = 7.9  # |tanh| is 1 in float32 beyond this
_EXP = (5.0000000135e-1, 1.6666576976e-1, 4.1666464915e-2, 8.3631801217e-3, 1.3933650352e-3)
_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4  # their sum is ln 2; the first has few bits
_ROUNDS = 12582912.0  # 1.5 * 2^23: adding and taking it away rounds a float32 to a whole number
_LOWEST = -88.0  # rounds to 2^-127, whose exponent bits are those of 0
_latest = threading.local()  # .swiglu: the latest product of `swiglu`, its gate and x, or None


def use_fast_swiglu(model: nn.Module) -> None:
    """Let an mlx-lm model compute its feed-forward gates by `swiglu`, if it runs on a CPU.

    The function is replaced in the module of the architecture, and so for all of its models in this
    process.
    """
    module = sys.modules[type(model).__module__]
    if mx.default_device() == mx.cpu and hasattr(module, "swiglu"):
        module.swiglu = swiglu  # type: ignore[attr-defined]


def swiglu(gate: mx.array, x: mx.array) -> mx.array:
    """``silu(gate) * x``, elementwise; computed fast in float32, by MLX in other types."""
    if gate.dtype != mx.float32 or x.dtype != mx.float32:
        return nn.silu(gate) * x
    product = cast("list[mx.array]", _swiglu(gate, x))[0]
    _latest.swiglu = (product, gate, x) if has_backward() and not keeps(gate) else None
    return product


def swiglu_inputs(product: mx.array | None) -> tuple[mx.array, mx.array] | None:
    """The gate and ``x`` of a large product that `swiglu` was the last to give in this thread.

    They are told once, and then forgotten. None for any other array, and if there is no backward.
    """
    latest, _latest.swiglu = getattr(_latest, "swiglu", None), None
    return latest[1:] if latest is not None and latest[0] is product else None


@mx.custom_function
def swiglu_linear(gate: mx.array, x: mx.array, weight: mx.array) -> mx.array:
    """``swiglu(gate, x)`` (..., K) multiplied by the transpose of a weight (N, K).

    The backward computes the product of gate and ``x`` again, so that it is not kept.
    """
    return _gated(gate, x, *_sigmoid_parts(gate)) @ weight.T


@swiglu_linear.vjp
def _swiglu_linear_vjp(
    primals: tuple[mx.array, mx.array, mx.array], cotangent: mx.array, _: mx.array
) -> tuple[mx.array, mx.array, mx.array]:
    gate, x, weight = primals
    slope = cotangent @ weight
    gate, x = mx.depends([gate, x], [slope])  # or it would be computed, and kept, in the forward
    s = _sigmoid(gate)
    product = _product(gate, x, s)
    outer = mx.flatten(cotangent, 0, -2).T @ mx.flatten(product, 0, -2)
    return _gate_slope(gate, x, slope, s), _product(slope, gate, s), outer


@mx.custom_function
def _swiglu(gate: mx.array, x: mx.array) -> list[mx.array]:
    if not keeps(gate):
        return [_gated(gate, x, *_sigmoid_parts(gate))]
    s = _sigmoid(gate)
    return [_product(gate, x, s), s]


@_swiglu.vjp
def _swiglu_vjp(
    primals: tuple[mx.array, mx.array], cotangents: list[mx.array], outputs: list[mx.array]
) -> tuple[mx.array, mx.array]:
    (gate, x), cotangent = primals, cotangents[0]
    s = outputs[1] if len(outputs) > 1 else _sigmoid(gate)
    return _gate_slope(gate, x, cotangent, s), _product(cotangent, gate, s)


def _sigmoid(x: mx.array) -> mx.array:
    return cast(mx.array, _half_more(*_sigmoid_parts(x)))


def tanh(x: mx.array) -> mx.array:
    """Hyperbolic tangent, elementwise; computed fast in float32 on a CPU, else by MLX."""
    if x.dtype != mx.float32 or mx.default_device() != mx.cpu:
        return mx.tanh(x)
    return cast(mx.array, _fast_tanh(x))


@mx.custom_function
def _fast_tanh(x: mx.array) -> mx.array:
    return _rational_tanh(x)


@_fast_tanh.vjp
def _fast_tanh_vjp(primal: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    return cotangent * (1 - output * output)


def _rational_tanh(x: mx.array) -> mx.array:
    x = mx.clip(x, -_SATURATED, _SATURATED)
    square = x * x
    numerator, denominator = mx.array(_ODD[-1]), mx.array(_EVEN[-1])
    for coefficient in _ODD[-2::-1]:
        numerator = numerator * square + coefficient
    for coefficient in _EVEN[-2::-1]:
        denominator = denominator * square + coefficient
    return x * numerator / denominator


# tanh(x / 2) / 2 as c (low + high) / denominator, each polynomial in two halves (Estrin 1960).
# Factors of 2 are in the coefficients.
_ODD_HALF = [c * 0.5 ** (2 * i + 2) for i, c in enumerate(_ODD)]
_EVEN_HALF = [c * 0.25**i for i, c in enumerate(_EVEN)]


def _sigmoid_parts(x: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    c = _clip(x)
    return c, _low(c), _high(c), _denominator(c)


@piece
def _clip(x: mx.array) -> mx.array:
    # Faster than minimum and maximum, and NaN stays NaN too.
    return mx.where(
        x < -2 * _SATURATED, -2 * _SATURATED, mx.where(x > 2 * _SATURATED, 2 * _SATURATED, x)
    )


@piece
def _low(c: mx.array) -> mx.array:
    square, o = c * c, _ODD_HALF
    return (o[0] + o[1] * square) + (o[2] + o[3] * square) * (square * square)


@piece
def _high(c: mx.array) -> mx.array:
    square, o = c * c, _ODD_HALF
    fourth = square * square
    return ((o[4] + o[5] * square) + o[6] * fourth) * (fourth * fourth)


@piece
def _denominator(c: mx.array) -> mx.array:
    square, e = c * c, _EVEN_HALF
    return (e[0] + e[1] * square) + (e[2] + e[3] * square) * (square * square)


@piece
def _half_more(c: mx.array, low: mx.array, high: mx.array, denominator: mx.array) -> mx.array:
    return 0.5 + c * (low + high) / denominator


@piece
def _gated(
    gate: mx.array, x: mx.array, c: mx.array, low: mx.array, high: mx.array, denominator: mx.array
) -> mx.array:
    return gate * x * (0.5 + c * (low + high) / denominator)


@piece
def _gate_slope(gate: mx.array, x: mx.array, cotangent: mx.array, s: mx.array) -> mx.array:
    return cotangent * x * s * (1 + gate * (1 - s))


@piece
def _product(a: mx.array, b: mx.array, c: mx.array) -> mx.array:
    return a * b * c


def on_cpu(*arrays: mx.array) -> bool:
    """Whether arrays are float32 and computed on a CPU, where MLX has no vectorized exp."""
    return mx.default_device() == mx.cpu and all(x.dtype == mx.float32 for x in arrays)


def softmax(x: mx.array) -> mx.array:
    """Softmax over the last axis; computed fast in float32 on a CPU, else by MLX."""
    return cast(mx.array, _fast_softmax(x)) if on_cpu(x) else mx.softmax(x, axis=-1)


def logsumexp(x: mx.array) -> mx.array:
    """Log of the sum of exponentials over the last axis, which is dropped; fast as `softmax`."""
    return cast(mx.array, _fast_logsumexp(x)) if on_cpu(x) else mx.logsumexp(x, axis=-1)


def exp_below(x: mx.array, top: mx.array) -> mx.array:
    """``exp(x - top)`` for ``x`` up to ``top``; 0 for -inf. It has no gradient on a CPU."""
    if not on_cpu(x, top):
        return mx.exp(x - top)
    x = _not_too_low(x - top)  # subtracted outside: a piece whose inputs broadcast is slow
    power = _power(x)
    rest = _rest(x, power)
    return _times_power(rest, _exp_series(rest), mx.view(_power_bits(power), mx.float32))


@mx.custom_function
def _fast_softmax(x: mx.array) -> mx.array:
    powers = exp_below(x, block_max(x, keepdims=True))
    return powers / block_sum(powers, keepdims=True)


@_fast_softmax.vjp
def _fast_softmax_vjp(primal: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    weighted = cotangent * output
    return weighted - output * block_sum(weighted, keepdims=True)


@mx.custom_function
def _fast_logsumexp(x: mx.array) -> mx.array:
    top = block_max(x, keepdims=True)
    return mx.log(block_sum(exp_below(x, top))) + top[..., 0]


@_fast_logsumexp.vjp
def _fast_logsumexp_vjp(primal: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    return cotangent[..., None] * exp_below(primal, output[..., None])


@piece
def _not_too_low(x: mx.array) -> mx.array:
    return mx.where(x < _LOWEST, _LOWEST, x)


@piece
def _power(x: mx.array) -> mx.array:
    """The whole number k of 2^k nearest to exp(x)."""
    return (x * _LOG2_E + _ROUNDS) - _ROUNDS


@piece
def _rest(x: mx.array, power: mx.array) -> mx.array:
    return (x - power * _LN2_HIGH) - power * _LN2_LOW


@piece
def _exp_series(rest: mx.array) -> mx.array:
    """(exp(rest) - 1 - rest) / rest^2."""
    square = rest * rest
    return (_EXP[0] + _EXP[1] * rest) + ((_EXP[2] + _EXP[3] * rest) + _EXP[4] * square) * square


@piece
def _times_power(rest: mx.array, series: mx.array, power: mx.array) -> mx.array:
    return (1 + rest + rest * rest * series) * power


@piece
def _power_bits(power: mx.array) -> mx.array:
    return ((power + 127.0) * 8388608.0).astype(mx.int32)
