"""Fast RMSNorm for CPUs, which takes one root for each row.

Zhang and Sennrich 2019, "Root Mean Square Layer Normalization" (arXiv 1910.07467), section 4. On a
CPU, MLX computes it in elementwise operations: compiled together, they take the root of a row again
for each number in it, and the backward begins by taking all roots again.

Shapes: D features; all other axes are rows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, cast

from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402

from textenv.algos.lm.kernels.fast_math import on_cpu  # noqa: E402
from textenv.algos.runtime.compile import piece  # noqa: E402


def use_fast_norm(model: nn.Module) -> None:
    """Let a model normalise by `FastRMSNorm`, if it runs on a CPU."""
    if mx.default_device() != mx.cpu:
        return
    for module in model.modules():
        if type(module) is nn.RMSNorm:
            module.__class__ = FastRMSNorm


class FastRMSNorm(nn.RMSNorm):
    """An `nn.RMSNorm` with the fast function; `use_fast_norm` makes it."""

    def __call__(self, x: mx.array) -> mx.array:
        """Normalise (..., D)."""
        if not on_cpu(x, self.weight):
            return cast(mx.array, super().__call__(x))
        return _norm(x.shape[-1], self.eps)(x, self.weight)[0]


@cache
def _norm(size: int, eps: float) -> Callable[..., list[mx.array]]:
    """The normalisation of rows of ``size`` numbers, as a function of the rows and the weight."""

    @piece
    def inverse_root(squares: mx.array) -> mx.array:
        return mx.rsqrt(squares * (1 / size) + eps)

    @mx.custom_function
    def run(x: mx.array, weight: mx.array) -> list[mx.array]:
        root = inverse_root(mx.sum(mx.square(x), axis=-1, keepdims=True))
        return [x * root * weight, root]

    @run.vjp
    def run_vjp(
        primals: tuple[mx.array, mx.array], cotangents: list[mx.array], outputs: list[mx.array]
    ) -> tuple[mx.array, mx.array]:
        (x, weight), cotangent, root = primals, cotangents[0], outputs[1]
        normal = x * root
        product = cotangent * normal
        mean = (product @ weight[:, None]) * (1 / size)
        slope = (cotangent * weight - normal * mean) * root
        return slope, mx.sum(product.reshape(-1, size), axis=0)

    return cast("Callable[..., Any]", run)
