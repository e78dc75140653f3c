"""Adapters in the form of PEFT, the library of adapters for transformers' models.

PEFT's factors are the transposes of mlx-lm's, and have other names. Its ``lora_alpha`` is the scale
times the rank.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from textenv.algos.runtime import backend
from textenv.errors import ConfigError, DataError

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
from mlx_lm.tuner.dora import DoRALinear  # noqa: E402
from mlx_lm.tuner.lora import LoRALinear  # noqa: E402

from textenv.algos.lm.models.lora import (  # noqa: E402
    adapter_rank,
    dropout_of,
    is_adaptable,
    is_dora,
    lora_layers,
)

PEFT_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_PARTS = {
    "lora_A.weight": "lora_a",
    "lora_B.weight": "lora_b",
    "lora_magnitude_vector": "m",
    "lora_magnitude_vector.weight": "m",
}
_CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq")  # ways to begin that alter its weights


class AdapterWeights(NamedTuple):
    """Adapters of several layers."""

    weights: dict[str, mx.array]
    """By mlx-lm's names: a layer's name, and ``lora_a``, ``lora_b`` or ``m``."""
    scales: dict[str, float]
    """By the names of the layers: the factor of the adapter's output."""


def peft_files(model: nn.Module) -> tuple[dict[str, Any], dict[str, mx.array]]:
    """The config and the weights of a model's adapters, as PEFT writes them.

    Raises:
        ConfigError: if PEFT has no form for an adapter, or if transformers may have another name
            for the layer that it is for.
    """
    layers = lora_layers(model)
    kinds = {is_dora(layer) for _, layer in layers}
    if len(kinds) > 1:
        raise ConfigError(
            "PEFT's files have one kind for all adapters, and these are LoRA and DoRA"
        )
    for name, layer in layers:
        _check_form(model, name, layer)
    weights = {}
    for name, layer in layers:
        key = f"{_PREFIX}{name}"
        weights[f"{key}.lora_A.weight"] = mx.contiguous(layer.lora_a.T)
        weights[f"{key}.lora_B.weight"] = mx.contiguous(layer.lora_b.T)
        if is_dora(layer):
            weights[f"{key}.lora_magnitude_vector"] = layer.m
    forms = {name: (adapter_rank(layer), float(layer.scale)) for name, layer in layers}
    rank, scale = Counter(forms.values()).most_common(1)[0][0]
    others = {name: form for name, form in forms.items() if form != (rank, scale)}
    config = {
        "alpha_pattern": {name: r * s for name, (r, s) in others.items()},
        "base_model_name_or_path": getattr(model, "source_name", None),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": rank * scale,
        "lora_dropout": dropout_of(layers[0][1]),
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {name: r for name, (r, _) in others.items()},
        "target_modules": _targets(model, list(forms)),
        "task_type": "CAUSAL_LM",
        "use_dora": True in kinds,
        "use_rslora": False,
    }
    return config, weights


def _check_form(model: nn.Module, name: str, layer: Any) -> None:
    if not isinstance(layer, (LoRALinear, DoRALinear)):
        raise ConfigError(f"PEFT has no form for the adapter of {name}, a {type(layer).__name__}")
    known = getattr(model, "source_weights", None)
    if not name.startswith("model.layers.") or (known and f"{name}.weight" not in known):
        raise ConfigError(
            f"{name} may have another name in transformers' {model.model_type!r}, so that PEFT "
            "would not find it: save them in mlx-lm's form (peft=False), or the merged model"
        )


def _targets(model: nn.Module, names: list[str]) -> list[str]:
    """Short names of the layers if they mean these alone, else their full names."""
    short = {name.rpartition(".")[2] for name in names}
    meant = {
        name
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in short and (is_adaptable(module) or "lora_a" in module)
    }
    return sorted(short if meant == set(names) else names)


def read_peft(
    config: Mapping[str, Any], weights: Mapping[str, mx.array], model: nn.Module
) -> AdapterWeights:
    """PEFT's adapters by mlx-lm's names.

    Args:
        config: the content of ``adapter_config.json``.
        weights: the content of ``adapter_model.safetensors``.
        model: the model that they are for; its names may begin otherwise than transformers'.

    Raises:
        DataError: for adapters of a kind that a model here cannot have.
    """
    if config.get("peft_type") != "LORA":
        raise DataError(f"peft_type must be LORA, got {config.get('peft_type')!r:.40}")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().split("_")[0] in _CHANGE_THE_BASE:
        raise DataError(
            f"init_lora_weights={start!r:.40} altered the weights of the model that they are for: "
            "merge them by PEFT's merge_and_unload"
        )
    places: dict[str, str] = {}
    for name, module in model.named_modules():
        if is_adaptable(module):
            places[name] = name
            # gpt2's "model.h.0" is "transformer.h.0" in transformers.
            places.setdefault(name.partition(".")[2], name)
    read = AdapterWeights({}, {})
    for key, value in weights.items():
        layer, part = _split(key)
        place = places.get(layer) or places.get(layer.partition(".")[2])
        if place is None:
            raise DataError(
                f"they are those of another model: {layer} is no layer of this one that an adapter "
                "can be for"
            )
        read.weights[f"{place}.{part}"] = value if part == "m" else value.T
        if part == "lora_a":
            read.scales[place] = _scale(config, layer, value.shape[0])
    return read


def _split(key: str) -> tuple[str, str]:
    """A layer's name in transformers, and mlx-lm's name of a part of its adapter."""
    for ending, part in _PARTS.items():
        if key.startswith(_PREFIX) and key.endswith(f".{ending}"):
            return key[len(_PREFIX) : -len(ending) - 1], part
    raise DataError(
        f"{key} is no low-rank adapter of a linear layer: merge them by PEFT's merge_and_unload"
    )


def _scale(config: Mapping[str, Any], layer: str, rank: int) -> float:
    """The factor of an adapter's output: alpha by its rank, or by the root of it."""
    alpha = config.get("lora_alpha", 8)
    pattern = config.get("alpha_pattern")
    for ending, own in (pattern if isinstance(pattern, dict) else {}).items():
        if not re.fullmatch(r"\^?[\w.]+", ending):
            raise DataError(f"alpha_pattern must have names of layers, got {ending!r:.80}")
        if layer == ending.removeprefix("^") or layer.endswith(f".{ending}"):
            alpha = own
            break
    if type(alpha) not in (int, float) or not math.isfinite(alpha):
        raise DataError(f"lora_alpha must be a number, got {alpha!r:.40}")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else max(rank, 1))
