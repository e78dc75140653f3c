"""Fast rotary position embeddings for CPUs, whose angles are computed once for all layers.

Su et al. 2021, "RoFormer" (arXiv 2104.09864), section 3.4.2, in GPT-NeoX's form, which
pairs the two halves of a vector. MLX computes sines and cosines anew in each layer, for queries
and for keys, and one at a time.

Shapes: B rows, H heads, L tokens, D head dimension.
"""

from __future__ import annotations

import math
from typing import Any, cast

from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402

from textenv.algos.lm.kernels.fast_math import on_cpu  # noqa: E402


def use_fast_rope(model: nn.Module) -> None:
    """Let a model turn its queries and keys by `FastRoPE`, if it runs on a CPU."""
    if mx.default_device() != mx.cpu:
        return
    shared: dict[tuple[int, float, float], Angles] = {}
    for module in model.modules():
        if type(module) is nn.RoPE and not module.traditional:
            settings = module.dims, module.base, module.scale
            module.__class__ = FastRoPE
            module.angles = shared.setdefault(settings, Angles(*settings))


class Angles:
    """Computes cosines and sines of the angles at some positions, and keeps the last ones.

    Args:
        dims: number of features that are turned, in pairs.
        base: base of the geometric series of frequencies.
        scale: what positions are multiplied by.
    """

    def __init__(self, dims: int, base: float, scale: float):
        half = dims // 2
        self._frequencies = scale * mx.exp(mx.arange(half) * (-math.log(base) / half))
        self._offset: mx.array | int | None = None
        self._length = 0
        self._kept: tuple[mx.array, mx.array] = (mx.zeros(()), mx.zeros(()))
        mx.eval(self._frequencies, *self._kept)  # another thread than this one may run the model

    def at(self, offset: mx.array | int, length: int) -> tuple[mx.array, mx.array]:
        """Cosines and sines (B or 1, 1, L, D / 2) at positions from ``offset`` on."""
        if offset is not self._offset or length != self._length:
            first = mx.array(offset).reshape(-1, 1, 1, 1)
            positions = first + mx.arange(length)[:, None]
            turns = positions.astype(mx.float32) * self._frequencies
            self._offset, self._length = offset, length
            self._kept = mx.cos(turns), mx.sin(turns)
        return self._kept


class FastRoPE(nn.RoPE):
    """An `nn.RoPE` with the fast function; `use_fast_rope` makes it."""

    angles: Angles

    def __call__(self, x: mx.array, offset: mx.array | int = 0) -> mx.array:
        """Turn queries or keys (B, H, L, D); the first token of each row is at ``offset``."""
        if not on_cpu(x):
            own: Any = super().__call__  # takes an array too, unlike its annotation
            return cast(mx.array, own(x, offset))
        return cast(mx.array, _turn(x, *self.angles.at(offset, x.shape[-2])))


@mx.custom_function
def _turn(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    half = cos.shape[-1]
    first, second = x[..., :half], x[..., half : 2 * half]
    turned = [first * cos - second * sin, second * cos + first * sin]
    if x.shape[-1] > 2 * half:
        turned.append(x[..., 2 * half :])
    return mx.concatenate(turned, axis=-1)


@_turn.vjp
def _turn_vjp(
    primals: tuple[mx.array, mx.array, mx.array], cotangent: mx.array, output: mx.array
) -> tuple[mx.array, mx.array, mx.array]:
    _, cos, sin = primals
    # The angles are constants.
    return cast(mx.array, _turn(cotangent, cos, -sin)), mx.zeros_like(cos), mx.zeros_like(sin)
