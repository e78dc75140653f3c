"""Computes the gradient of a policy-gradient loss, in this process."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from textenv.algos.runtime import backend
from textenv.algos.training.microbatches import GradientResult, LossResult, MicroBatch

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
from mlx.utils import tree_map  # noqa: E402

from textenv.algos.lm.kernels.linear import gradients_by_rows  # noqa: E402
from textenv.algos.lm.models.lora import seed_dropout  # noqa: E402
from textenv.algos.lm.models.weights import as_numpy  # noqa: E402
from textenv.algos.lm.scoring.scorer import Scorer  # noqa: E402
from textenv.algos.runtime.compile import gradients  # noqa: E402
from textenv.algos.training.optimizer import widened  # noqa: E402

LossFn = Callable[..., "tuple[mx.array, dict[str, mx.array]]"]
"""``loss_fn(logprobs, old_logprobs, advantages, mask) -> (loss, metrics)``; arrays are (N, T)."""


class GradientComputer(Protocol):
    """Computes gradients by the weights of one model, in this process or in others."""

    shares: int
    """How many microbatches are computed at once."""

    def gradient(self, microbatches: Sequence[MicroBatch]) -> tuple[list[LossResult], Any]:
        """The loss of each microbatch, and the gradient of the sum of the losses."""
        ...


class LocalGradient:
    """Computes gradients in this process, one microbatch after another.

    Args:
        model: the gradient is by its trainable weights.
        loss_fn: see `textenv.algos.training.trainer.Trainer`.
        gradient_checkpointing: compute each layer again in the backward pass, to save memory.
    """

    shares = 1

    def __init__(self, model: nn.Module, loss_fn: LossFn, gradient_checkpointing: bool = False):
        self._model = model
        self._loss_fn = loss_fn
        self._scorer = Scorer(model, gradient_checkpointing)
        self._wants_hits = "hits" in inspect.signature(loss_fn).parameters

    def gradient(self, microbatches: Sequence[MicroBatch]) -> tuple[list[LossResult], Any]:
        """The loss of each microbatch, and the gradient of the sum of the losses."""
        try:
            parts = [(part,) for part in microbatches]
            outputs, gradient = accumulate(self._model, self._loss, parts)
        finally:
            seed_dropout(self._model, None)
        results = [
            LossResult(loss.item(), {k: float(v) for k, v in metrics.items()}, off.item())
            for loss, metrics, off in outputs
        ]
        return results, gradient

    def __call__(self, microbatches: Sequence[MicroBatch]) -> GradientResult:
        """The result of `gradient`, in a form that can be sent to another process."""
        results, gradient = self.gradient(microbatches)
        return GradientResult(results, as_numpy(gradient))

    def _loss(self, part: MicroBatch) -> tuple[mx.array, dict[str, mx.array], mx.array]:
        batch = part.batch
        seed_dropout(self._model, part.dropout_seed)  # the backward computes layers again by it
        extra: dict[str, Any] = {}
        if part.batch_size is not None:
            extra["batch_size"] = part.batch_size
        if part.ref_logprobs is not None:
            extra["ref_logprobs"] = mx.array(part.ref_logprobs)
        if batch.weights is not None:
            extra["weights"] = mx.array(batch.weights)
        if self._wants_hits:
            logprobs, entropies, extra["hits"] = self._scorer.with_hits(batch)
        else:
            logprobs, entropies = self._scorer(batch)  # (N, T) each
        mask, old = mx.array(batch.mask), mx.array(batch.old_logprobs)
        loss, metrics = self._loss_fn(logprobs, old, mx.array(part.advantages), mask, **extra)
        off = mx.stop_gradient(mx.abs(logprobs - old) * mask).max()
        entropy = (entropies * mask).sum() / mx.maximum(mask.sum(), 1)
        return loss, {**metrics, "entropy": entropy}, off


def accumulate(
    model: nn.Module, loss_fn: Callable[..., tuple[Any, ...]], parts: Iterable[tuple[Any, ...]]
) -> tuple[list[tuple[Any, ...]], Any]:
    """The gradient of the sum of a loss over microbatches, computed one after another.

    Args:
        model: the gradient is by its trainable weights.
        loss_fn: gives the loss of a microbatch first, and then whatever else is wanted of it.
        parts: the arguments of ``loss_fn`` for each microbatch, at least one.

    Returns:
        What ``loss_fn`` gave for each microbatch, and the gradient, in float32 also of weights in
        half precision, in which small parts would be lost from a sum.
    """
    value_and_grad = nn.value_and_grad(model, loss_fn)
    outputs: list[tuple[Any, ...]] = []
    total: Any = None
    for part in parts:
        with gradients(), gradients_by_rows(model):
            output, grads = value_and_grad(*part)
        grads = widened(grads)
        total = grads if total is None else tree_map(mx.add, total, grads)
        del grads  # each array of it is freed as soon as it is added
        mx.eval(output, total)
        outputs.append(output)
    return outputs, total
