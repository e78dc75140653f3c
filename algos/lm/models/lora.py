"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685), which train few new weights."""

from __future__ import annotations

from typing import Any

from textenv.algos.runtime import backend
from textenv.errors import ConfigError

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
from mlx_lm.tuner.utils import linear_to_lora_layers  # noqa: E402


def add_lora(model: nn.Module, rank: int, scale: float, seed: int) -> None:
    """Freeze a model but for low-rank adapters of its linear layers, in place.

    If a model has adapters already, they stay as they are, and only they are trained.

    Args:
        model: an mlx-lm model.
        rank: the rank of each adapter.
        scale: factor of the outputs of new adapters.
        seed: seed of the first factors of new adapters; the second ones start at zero.

    Raises:
        ConfigError: if the model has adapters of another rank.
    """
    layers = lora_layers(model)
    ranks = {_rank(factor) for _, module in layers for factor in _first_factors(module)}
    if ranks - {rank}:
        found = ", ".join(map(str, sorted(ranks)))
        raise ConfigError(
            f"lora_rank={rank}, and the model has adapters of rank {found} already: set lora_rank "
            "to their rank to go on from them, or save the model, which merges them, and load that"
        )
    model.freeze()
    for _, module in layers:
        module.unfreeze(recurse=False)
    if not layers:
        _new_adapters(model, rank, scale, seed)
    mx.eval(model.parameters())


def _new_adapters(model: nn.Module, rank: int, scale: float, seed: int) -> None:
    linear_to_lora_layers(
        model, len(model.layers), {"rank": rank, "scale": scale, "dropout": 0.0, "keys": None}
    )
    key = mx.random.key(seed)
    for _, module in lora_layers(model):
        factors = []
        for factor in _first_factors(module):
            key, own = mx.random.split(key)
            # (inputs, rank), or for experts (experts, rank, inputs)
            bound = factor.shape[0 if factor.ndim == 2 else -1] ** -0.5
            factors.append(mx.random.uniform(-bound, bound, factor.shape, key=own))
        module.lora_a = factors if isinstance(module.lora_a, list) else factors[0]


def _first_factors(module: Any) -> list[mx.array]:
    """The first factor of a layer's adapter; several of a layer that computes several products."""
    return module.lora_a if isinstance(module.lora_a, list) else [module.lora_a]


def _rank(factor: mx.array) -> int:
    return factor.shape[-1 if factor.ndim == 2 else -2]


def has_lora(model: nn.Module) -> bool:
    """Whether the model has low-rank adapters."""
    return bool(lora_layers(model))


def lora_layers(model: nn.Module) -> list[tuple[str, Any]]:
    """The layers of a model that have adapters, by name."""
    return [(name, m) for name, m in model.named_modules() if "lora_a" in m and "lora_b" in m]
