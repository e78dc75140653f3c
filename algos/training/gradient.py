"""The gradient of a policy-gradient loss: in this process, or shared by workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from textenv.algos.rollouts.coordinator import RolloutCoordinator
from textenv.algos.runtime import backend
from textenv.algos.training.microbatches import Learned, Part, Result

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
from mlx.utils import tree_flatten, tree_unflatten  # noqa: E402

from textenv.algos.lm.models.weights import as_numpy  # noqa: E402
from textenv.algos.lm.scoring.scorer import Scorer  # noqa: E402
from textenv.algos.training.optimizer import accumulate  # noqa: E402

LossFn = Callable[..., "tuple[mx.array, dict[str, mx.array]]"]
"""``loss_fn(logprobs, old_logprobs, advantages, mask) -> (loss, metrics)``, (N, T) each."""


class Learner(Protocol):
    """Computes gradients of the weights of one model."""

    shares: int
    """Parts that are computed at once."""

    def gradient(self, parts: Sequence[Part]) -> tuple[list[Result], Any]:
        """What the loss came to for each part, and the gradient of the sum over parts."""
        ...


class LocalLearner:
    """Computes in this process, one part after another.

    Args:
        model: whose trainable weights the gradient is of.
        loss_fn: see `textenv.algos.training.trainer.Trainer`.
        gradient_checkpointing: compute each layer again in the backward.
    """

    shares = 1

    def __init__(self, model: nn.Module, loss_fn: LossFn, gradient_checkpointing: bool = False):
        self._model = model
        self._loss_fn = loss_fn
        self._scorer = Scorer(model, gradient_checkpointing)

    def gradient(self, parts: Sequence[Part]) -> tuple[list[Result], Any]:
        """What the loss came to for each part, and the gradient of the sum over parts."""
        outputs, gradient = accumulate(self._model, self._loss, [(part,) for part in parts])
        results = [
            Result(loss.item(), {k: float(v) for k, v in metrics.items()}, off.item())
            for loss, metrics, off in outputs
        ]
        return results, gradient

    def __call__(self, parts: Sequence[Part]) -> Learned:
        """The same, to be sent to another process."""
        results, gradient = self.gradient(parts)
        return Learned(results, as_numpy(gradient))

    def _loss(self, part: Part) -> tuple[mx.array, dict[str, mx.array], mx.array]:
        batch = part.batch
        extra: dict[str, Any] = {}
        if part.batch_size is not None:
            extra["batch_size"] = part.batch_size
        if part.ref_logprobs is not None:
            extra["ref_logprobs"] = mx.array(part.ref_logprobs)
        if batch.weights is not None:
            extra["weights"] = mx.array(batch.weights)
        logprobs, entropies = self._scorer(batch)  # (N, T) each
        mask, old = mx.array(batch.mask), mx.array(batch.old_logprobs)
        loss, metrics = self._loss_fn(logprobs, old, mx.array(part.advantages), mask, **extra)
        off = mx.stop_gradient(mx.abs(logprobs - old) * mask).max()
        entropy = (entropies * mask).sum() / mx.maximum(mask.sum(), 1)
        return loss, {**metrics, "entropy": entropy}, off


class SharedLearner:
    """Lets the workers of a coordinator compute, each some of the parts.

    Args:
        coordinator: whose workers have learners of the same model and loss.
    """

    def __init__(self, coordinator: RolloutCoordinator):
        self._coordinator = coordinator
        self.shares = coordinator.num_workers

    def gradient(self, parts: Sequence[Part]) -> tuple[list[Result], Any]:
        """What the loss came to for each part, and the gradient of the sum over parts."""
        weights: Any = dict(tree_flatten(self._coordinator.policy.model.trainable_parameters()))
        results: list[Result] = []
        total: dict[str, mx.array] = {}
        for learned in self._coordinator.learn(parts):  # in the order of the parts
            results += learned.results
            for name, array in learned.gradient.items():
                value = mx.array(array).view(weights[name].dtype)
                total[name] = total[name] + value if name in total else value
            mx.eval(total)
        return results, tree_unflatten(list(total.items()))
