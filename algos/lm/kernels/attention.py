"""Attention over keys in parts, some of them shared by many rows.

mlx-lm's models call one function for attention, by name. It is replaced in their modules by
`scaled_dot_product_attention` here, which hands on to mlx-lm's but for two cases: continuations of
shared prompts (a `ForkedCache`), on any device, and float32 on a CPU, where
MLX's own spends most of its time in exponentials.

Exponentials and sums are float32 also where the rest is half precision.
Where there are many scores they are not kept for the backward but computed again, as in
FlashAttention (Dao et al. 2022, arXiv 2205.14135, algorithm 4): what is kept are the queries, keys,
values, the output and one number a query.

Shapes: B rows = P prompts x G continuations each, H key-value heads, R query heads for each of
these, L queries of a row, S keys of a part, D head dimension.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
from mlx_lm.models import base  # noqa: E402

from textenv.algos.lm.kernels.fast_math import exp_below, on_cpu  # noqa: E402
from textenv.algos.runtime.compile import keeps  # noqa: E402

_NAME = "scaled_dot_product_attention"


class KeyBlock(NamedTuple):
    """Keys that queries attend to."""

    keys: mx.array
    """(P, H, G, S, D), or (P, H, 1, S, D): the same for all continuations of a prompt."""
    values: mx.array
    """As the keys."""
    bias: mx.array | None
    """Added to the scores (P, H, G, R, L, S), which it broadcasts to: -inf hides a key."""


def use_shared_attention(model: nn.Module) -> None:
    """Let an mlx-lm model attend by `scaled_dot_product_attention`.

    The function is replaced in the modules that the model's layers come from, so for all models of
    its kind in this process; any other cache than those here is handed on to mlx-lm's own.
    """
    for name in {type(module).__module__ for module in model.modules()}:
        module = sys.modules[name]
        if name.startswith("mlx_lm.models.") and hasattr(module, _NAME):
            setattr(module, _NAME, scaled_dot_product_attention)


def scaled_dot_product_attention(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    cache: Any,
    scale: float,
    mask: mx.array | str | None,
    sinks: mx.array | None = None,
) -> mx.array:
    """Attention as mlx-lm's models ask for it, (B, H * R, L, D).

    Raises:
        ValueError: for attention sinks, or scores that are added, over a prompt that is shared.
    """
    # Multi-head latent attention hands in a part of its scores as the mask: it has a gradient.
    adds = isinstance(mask, mx.array) and mask.dtype != mx.bool_
    attend_shared = getattr(cache, "attend", None)
    if attend_shared is not None:
        if sinks is not None or adds:
            raise ValueError("sinks and added scores cannot be combined with a shared prompt")
        return attend_shared(queries, scale, mask)
    plain = sinks is None and not adds and not hasattr(cache, "bits")
    if not plain or not on_cpu(queries, keys, values):
        handed: Any = mask  # "causal" too, whatever its annotation says
        return base.scaled_dot_product_attention(
            queries, keys, values, cache=cache, scale=scale, mask=handed, sinks=sinks
        )
    count, heads, length, _ = queries.shape
    groups = keys.shape[1]
    bias = as_bias(mask, length, keys.shape[2])
    if bias is not None:  # (B, 1 or heads, L, S)
        bias = bias.reshape(bias.shape[0], -1, 1, 1, *bias.shape[-2:])
        if bias.shape[1] > 1:
            bias = bias.reshape(bias.shape[0], groups, 1, heads // groups, *bias.shape[-2:])
    keys, values = mx.contiguous(keys), mx.contiguous(values)
    part = KeyBlock(keys[:, :, None], values[:, :, None], bias)
    # (B, H, 1, R, L, D)
    split = mx.contiguous(queries * scale).reshape(count, groups, 1, heads // groups, length, -1)
    return attend(split, [part]).reshape(count, heads, length, -1)


def as_bias(mask: mx.array | str | None, length: int, columns: int) -> mx.array | None:
    """A mask as mlx-lm has it, as what is added to scores: (B or 1, heads or 1, L, S)."""
    if mask is None:
        return None
    if isinstance(mask, str):  # "causal"
        ends = mx.arange(columns - length, columns)[:, None]
        mask = ends >= mx.arange(columns)[None]
    if mask.dtype == mx.bool_:
        mask = mx.where(mask, 0.0, -mx.inf)
    return mask.reshape(*(1,) * (4 - mask.ndim), *mask.shape)


def attend(queries: mx.array, parts: Sequence[KeyBlock]) -> mx.array:
    """Attention of scaled queries over all parts together.

    Args:
        queries: (P, H, G, R, L, D), multiplied by the scale.
        parts: the keys.

    Returns:
        (P, H, G, R, L, D of the values). Gradients flow to queries, keys and values.
    """
    biases = [part.bias for part in parts]
    flat = [array for part in parts for array in (part.keys, part.values)]
    return _attention(biases)(queries, *flat)[0]


def _attention(biases: list[mx.array | None]) -> Callable[..., list[mx.array]]:
    """Attention as a function with a gradient of its own, under given biases."""

    @mx.custom_function
    def run(queries: mx.array, *flat: mx.array) -> list[mx.array]:
        scores = [_scores(queries, k, b) for k, b in zip(flat[::2], biases)]
        tops = [mx.max(s, axis=-1, keepdims=True) for s in scores]
        top = tops[0]
        for other in tops[1:]:
            top = mx.maximum(top, other)
        powers = [exp_below(s, top) for s in scores]
        total, out = mx.zeros(()), mx.zeros(())
        for power, values in zip(powers, flat[1::2]):
            total = total + mx.sum(power, axis=-1, keepdims=True)
            out = out + _times(power.astype(values.dtype), values)
        out = (out / total).astype(queries.dtype)  # (..., L, D)
        if keeps(*powers):
            return [out, total, *powers]
        return [out, top + mx.log(total)]  # (..., L, 1)

    @run.vjp
    def run_vjp(
        primals: tuple[mx.array, ...], cotangents: list[mx.array], outputs: list[mx.array]
    ) -> tuple[mx.array, ...]:
        queries, *flat = primals
        cotangent, (out, normalizer, *powers) = mx.contiguous(cotangents[0]), outputs
        if powers:  # not divided by their sum: this is
            cotangent = (cotangent / normalizer).astype(out.dtype)
        else:
            scores = (_scores(queries, k, b) for k, b in zip(flat[::2], biases))
            powers = [exp_below(s, normalizer) for s in scores]
        spread = mx.sum((cotangent * out).astype(normalizer.dtype), axis=-1, keepdims=True)
        for_queries, for_flat = mx.zeros(()), []
        for keys, values, power in zip(flat[::2], flat[1::2], powers):
            slope = power * (_times(cotangent, values, transposed=True) - spread)
            slope, power = slope.astype(keys.dtype), power.astype(values.dtype)
            for_queries = for_queries + _times(slope, keys)
            for_flat += [_outer(slope, queries, keys), _outer(power, cotangent, values)]
        return (for_queries.astype(queries.dtype), *for_flat)

    return cast("Callable[..., list[mx.array]]", run)


def _scores(queries: mx.array, keys: mx.array, bias: mx.array | None) -> mx.array:
    """(P, H, G, R, L, S), in float32 or better: what is exponentiated must not be rounded."""
    scores = _times(queries, keys, transposed=True)
    if scores.dtype != mx.float64:
        scores = scores.astype(mx.float32)
    return scores if bias is None else scores + bias


def _times(rows: mx.array, matrix: mx.array, transposed: bool = False) -> mx.array:
    """Rows (P, H, G, R, L, X) times matrices (P, H, G or 1, X, Y), or (..., Y, X) transposed.

    A matrix that continuations share multiplies all their rows at once.
    """
    if transposed:
        matrix = matrix.swapaxes(-1, -2)
    return (_fold(rows, matrix) @ matrix).reshape(*rows.shape[:-1], matrix.shape[-1])


def _outer(left: mx.array, right: mx.array, like: mx.array) -> mx.array:
    """The sum over rows of left (..., S) times right (..., D), (P, H, G or 1, S, D)."""
    return _fold(left, like).swapaxes(-1, -2) @ _fold(right, like)


def _fold(rows: mx.array, matrix: mx.array) -> mx.array:
    """(P, H, G, R, L, X) as (P, H, G or 1, rows, X), whichever the matrix has."""
    return rows.reshape(*rows.shape[:2], matrix.shape[2], -1, rows.shape[-1])
