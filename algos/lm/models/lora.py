"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685), which train few new weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
from mlx_lm.tuner.utils import linear_to_lora_layers  # noqa: E402


def add_lora(model: nn.Module, rank: int, scale: float, seed: int) -> None:
    """Freeze a model, and add low-rank adapters to its linear layers, in place.

    Args:
        model: an mlx-lm model.
        rank: the rank of each adapter.
        scale: factor of the adapters' outputs.
        seed: seed of the adapters' first factors; the second ones start at zero.
    """
    model.freeze()
    linear_to_lora_layers(
        model, len(model.layers), {"rank": rank, "scale": scale, "dropout": 0.0, "keys": None}
    )
    key = mx.random.key(seed)
    for _, module in lora_layers(model):
        several = isinstance(module.lora_a, list)  # a layer that computes several products
        factors = []
        for factor in module.lora_a if several else [module.lora_a]:
            key, own = mx.random.split(key)
            # (inputs, rank), or for experts (experts, rank, inputs)
            bound = factor.shape[0 if factor.ndim == 2 else -1] ** -0.5
            factors.append(mx.random.uniform(-bound, bound, factor.shape, key=own))
        module.lora_a = factors if several else factors[0]
    mx.eval(model.parameters())


@contextmanager
def without_lora(model: nn.Module) -> Iterator[None]:
    """A block in which the model computes what it did before `add_lora`."""
    scales = [(module, module.scale) for _, module in lora_layers(model)]
    try:
        for module, _ in scales:
            module.scale = 0.0
        yield
    finally:
        for module, scale in scales:
            module.scale = scale


def has_lora(model: nn.Module) -> bool:
    """Whether the model has low-rank adapters."""
    return bool(lora_layers(model))


def lora_layers(model: nn.Module) -> list[tuple[str, Any]]:
    """The layers of a model that have adapters, by name."""
    return [(name, m) for name, m in model.named_modules() if "lora_a" in m and "lora_b" in m]
