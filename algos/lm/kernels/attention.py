"""Attention over several blocks of keys, some of which many rows share.

mlx-lm's models call one function for attention, by name. `use_shared_attention` replaces it in
their modules by `scaled_dot_product_attention`, which calls mlx-lm's own except in two cases: rows
that continue shared prompts (a `ForkedCache`), on any device, and float32 on a CPU, where MLX
spends most of its time on exponentials.

Exponentials and sums are float32, even if everything else is half precision. Many scores are not
kept for the backward but computed again, as in FlashAttention (Dao et al. 2022, arXiv 2205.14135,
algorithm 4): then only the queries, keys, values, the output and one number for each query are
kept.

Shapes: B rows = P prompts x G continuations of each, H key-value heads, R query heads for each of
these, L queries of a row, S keys of a block, D head dimension.
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

from textenv.algos.lm.kernels.block_sums import block_sum  # noqa: E402
from textenv.algos.lm.kernels.fast_math import exp_below, on_cpu  # noqa: E402
from textenv.algos.runtime.compile import keeps  # noqa: E402

_NAME = "scaled_dot_product_attention"


class KeyBlock(NamedTuple):
    """A block of keys and values that queries attend to."""

    keys: mx.array
    """(P, H, G, S, D), or (P, H, 1, S, D): the same for all continuations of a prompt."""
    values: mx.array
    """In the shape of the keys."""
    bias: mx.array | None
    """Is added to the scores (P, H, G, R, L, S), to which it broadcasts; -inf hides a key."""


def use_shared_attention(model: nn.Module) -> None:
    """Let an mlx-lm model compute attention by `scaled_dot_product_attention`.

    The function is replaced in the modules that define the model's layers, and so for all models of
    this architecture in the process. With other caches than ours, mlx-lm's own function runs.
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
    """Attention with the arguments that mlx-lm's models pass, (B, H * R, L, D).

    Raises:
        ValueError: for attention sinks, or a mask of added scores, over a shared prompt.
    """
    # Multi-head latent attention passes a part of its scores as the mask: it has a gradient.
    adds = isinstance(mask, mx.array) and mask.dtype != mx.bool_
    attend_shared = getattr(cache, "attend", None)
    if attend_shared is not None:
        if sinks is not None or adds:
            raise ValueError("sinks and added scores cannot be combined with a shared prompt")
        return attend_shared(queries, scale, mask)
    plain = sinks is None and not adds and not hasattr(cache, "bits")
    if not plain or not on_cpu(queries, keys, values):
        handed: Any = mask  # may be "causal", although the annotation does not say so
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
    block = KeyBlock(keys[:, :, None], values[:, :, None], bias)
    # (B, H, 1, R, L, D)
    split = mx.contiguous(queries * scale).reshape(count, groups, 1, heads // groups, length, -1)
    return attend(split, [block]).reshape(count, heads, length, -1)


def as_bias(mask: mx.array | str | None, length: int, columns: int) -> mx.array | None:
    """What mlx-lm's mask adds to the scores: (B or 1, heads or 1, L, S); None for no mask."""
    if mask is None:
        return None
    if isinstance(mask, str):  # "causal"
        ends = mx.arange(columns - length, columns)[:, None]
        mask = ends >= mx.arange(columns)[None]
    if mask.dtype == mx.bool_:
        mask = mx.where(mask, 0.0, -mx.inf)
    return mask.reshape(*(1,) * (4 - mask.ndim), *mask.shape)


def attend(queries: mx.array, blocks: Sequence[KeyBlock]) -> mx.array:
    """Attention of scaled queries over all blocks of keys together.

    Args:
        queries: (P, H, G, R, L, D), already multiplied by the scale.
        blocks: the keys and values.

    Returns:
        (P, H, G, R, L, D of the values). Gradients flow to queries, keys and values, not to biases.
    """
    biases = [block.bias for block in blocks]
    flat = [array for block in blocks for array in (block.keys, block.values)]
    return _attention(biases)(queries, *flat)[0]


def _attention(biases: list[mx.array | None]) -> Callable[..., list[mx.array]]:
    """Attention as a function of queries, keys and values, with a gradient of its own."""

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
            total = total + block_sum(power, keepdims=True)
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
        if powers:  # these are not divided by their sum, so the cotangent is
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
    """Scores (P, H, G, R, L, S), in float32 or better, as rounding would show in exponentials."""
    scores = _times(queries, keys, transposed=True)
    if scores.dtype != mx.float64:
        scores = scores.astype(mx.float32)
    return scores if bias is None else scores + bias


def _times(rows: mx.array, matrix: mx.array, transposed: bool = False) -> mx.array:
    """Rows (P, H, G, R, L, X) times matrices (P, H, G or 1, X, Y), or (..., Y, X) transposed.

    A matrix that continuations share multiplies all of their rows at once.
    """
    if transposed:
        matrix = matrix.swapaxes(-1, -2)
    return (_fold(rows, matrix) @ matrix).reshape(*rows.shape[:-1], matrix.shape[-1])


def _outer(left: mx.array, right: mx.array, like: mx.array) -> mx.array:
    """The sum over rows of left (..., S) times right (..., D), (P, H, G or 1, S, D)."""
    return _fold(left, like).swapaxes(-1, -2) @ _fold(right, like)


def _fold(rows: mx.array, matrix: mx.array) -> mx.array:
    """(P, H, G, R, L, X) as (P, H, G or 1, rows, X), with the third axis of the matrix."""
    return rows.reshape(*rows.shape[:2], matrix.shape[2], -1, rows.shape[-1])
