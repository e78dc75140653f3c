"""Turns a quantized model into one of plain weights, which a CPU runs several times faster.

A CPU unpacks rounded weights for each product anew. The plain weights are those that the rounded
ones stand for, so that the model computes the same function.
"""

from __future__ import annotations

import warnings
from typing import Any

from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
from mlx.utils import tree_unflatten  # noqa: E402
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear  # noqa: E402

from textenv.algos.lm.memory.limits import MemoryLimit, in_gb, memory_limit  # noqa: E402
from textenv.algos.lm.models.properties import count_parameters, quantized_layers  # noqa: E402

_SHARE = 0.5  # of the memory; the rest is for prompts, gradients and the optimizer


def dequantize_on_cpu(model: nn.Module, name: object, limit: MemoryLimit | None = None) -> None:
    """Give a quantized model plain weights if it runs on a CPU with the memory for them, in place.

    A warning says what was done, or why it was not and what to do.

    Args:
        model: an mlx-lm model; one that is not quantized, or is on a GPU, stays as it is.
        name: what the model is called in the warning.
        limit: the memory that there is; None: what this process has now.
    """
    if mx.default_device() != mx.cpu or not quantized_layers(model):
        return
    size, limit = 4 * count_parameters(model), limit or memory_limit()
    begins = f"{name} is quantized, which is slow on a CPU: "
    if limit is not None and size > _SHARE * limit.size:
        warnings.warn(
            f"{begins}it stays so, since its weights in float32 would take {in_gb(size)}, more "
            f"than half of {limit.what} ({in_gb(limit.size)}); free memory, or take a smaller "
            "model that is not quantized",
            stacklevel=3,
        )
    elif left := to_plain_weights(model):
        warnings.warn(
            f"{begins}it stays so in {len(left)} layers of a kind that is not known here, such as "
            f"{left[0]}; take the model as it was before it was quantized",
            stacklevel=3,
        )
    else:
        warnings.warn(
            f"{begins}its weights are made float32, {in_gb(size)}, and it is saved so",
            stacklevel=3,
        )


def to_plain_weights(model: nn.Module) -> list[str]:
    """Put plain layers of the same function in the places of quantized ones, in place.

    Returns:
        The names of the layers that stay quantized, since their kind is not known.
    """
    left = []
    for name, layer in quantized_layers(model):
        plain = _plain_layer(layer)
        if plain is None:
            left.append(name)
            continue
        model.update_modules(tree_unflatten([(name, plain)]))
        mx.eval(plain.parameters())  # one after another, so that few of both kinds exist at once
    return left


def _plain_layer(layer: Any) -> nn.Module | None:
    """A layer of plain float32 weights; None for a kind that is not known."""
    plain: Any
    if type(layer) is nn.QuantizedLinear:
        plain = nn.Linear(1, 1, bias="bias" in layer)
    elif type(layer) is nn.QuantizedEmbedding:
        plain = nn.Embedding(1, 1)
    elif type(layer) is QuantizedSwitchLinear and layer.get("global_scale") is None:
        plain = SwitchLinear(1, 1, 1, bias="bias" in layer)
    else:
        return None
    plain.weight = mx.dequantize(
        layer.weight,
        layer.scales,
        layer.get("biases"),
        group_size=layer.group_size,
        bits=layer.bits,
        mode=layer.mode,
    ).astype(mx.float32)
    if "bias" in layer:
        plain.bias = layer.bias
    plain.train(layer.training)
    return plain
