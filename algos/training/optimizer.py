"""One optimizer step: the gradient of a batch, taken in parts, clipped and applied."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
import mlx.optimizers as optim  # noqa: E402
from mlx.utils import tree_flatten, tree_map  # noqa: E402

from textenv.algos.runtime.compile import gradients  # noqa: E402


def accumulate(
    model: nn.Module, loss_fn: Callable[..., tuple[Any, ...]], parts: Iterable[tuple[Any, ...]]
) -> tuple[list[tuple[Any, ...]], Any]:
    """The gradient of the sum of a loss over parts, which are computed one after another.

    Args:
        model: whose trainable weights the gradient is of.
        loss_fn: gives the loss and whatever else is wanted of a part.
        parts: the arguments of ``loss_fn``, at least one.

    Returns:
        What ``loss_fn`` gave for each part, and the gradient.
    """
    value_and_grad = nn.value_and_grad(model, loss_fn)
    outputs: list[tuple[Any, ...]] = []
    total: Any = None
    for part in parts:
        with gradients():
            output, grads = value_and_grad(*part)
        total = grads if total is None else tree_map(mx.add, total, grads)
        mx.eval(output, total)
        outputs.append(output)
    return outputs, total


class Stepper:
    """Takes an optimizer's steps: the gradient clipped to a global norm, and applied.

    MLX's own optimizers are compiled, into fewer operations on each weight; a user's class may do
    what cannot be.

    Args:
        model: whose trainable weights move.
        optimizer: an MLX optimizer.
        max_grad_norm: the norm of all weights' gradients together is clipped to this; 0: not.
    """

    def __init__(self, model: nn.Module, optimizer: optim.Optimizer, max_grad_norm: float):
        self._model, self._optimizer = model, optimizer
        self._max_norm = max_grad_norm or math.inf
        optimizer.init(model.trainable_parameters())
        self._state = [model.state, optimizer.state]
        self._update: Callable[[Any, mx.array], None] = self._scaled_update
        if type(optimizer).__module__.startswith("mlx."):
            self._update = mx.compile(self._update, inputs=self._state, outputs=self._state)

    def __call__(self, gradient: Any) -> float:
        """Take a step.

        Returns:
            The norm before clipping.

        Raises:
            FloatingPointError: where it is not finite; the weights are left as they were.
        """
        flat: Any = tree_flatten(gradient)
        squares = (mx.square(g.astype(mx.float32)).sum() for _, g in flat)
        norm: Any = mx.sqrt(sum(squares, mx.zeros(())))
        value = float(norm.item())
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the gradient's norm is {value}: lower learning_rate, or raise it in "
                "precision; the weights were left as they were"
            )
        self._update(gradient, mx.minimum(self._max_norm / (norm + 1e-6), 1.0))
        mx.eval(self._state)
        return value

    def _scaled_update(self, gradient: Any, scale: mx.array) -> None:
        scaled = tree_map(lambda g: g * scale.astype(g.dtype), gradient)
        self._optimizer.update(self._model, scaled)
