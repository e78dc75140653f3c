"""One optimizer step: the gradient of a batch, taken in parts, clipped and applied."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from textenv.algos import backend

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
import mlx.optimizers as optim  # noqa: E402
from mlx.utils import tree_map  # noqa: E402


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
        output, grads = value_and_grad(*part)
        total = grads if total is None else tree_map(mx.add, total, grads)
        mx.eval(output, total)
        outputs.append(output)
    return outputs, total


def apply_gradient(
    model: nn.Module, optimizer: optim.Optimizer, gradient: Any, max_grad_norm: float
) -> float:
    """Clip a gradient to a global norm (0: not at all) and let the optimizer take a step.

    Returns:
        The norm before clipping.

    Raises:
        FloatingPointError: where it is not finite; the weights are left as they were.
    """
    gradient, norm = optim.clip_grad_norm(gradient, max_grad_norm or math.inf)
    if not math.isfinite(norm.item()):
        raise FloatingPointError(
            f"the gradient's norm is {norm.item()}: lower learning_rate, or raise it in "
            "precision; the weights were left as they were"
        )
    optimizer.update(model, gradient)
    mx.eval(model.parameters(), optimizer.state)
    return float(norm.item())
