"""What a model tells without being run: context length, parameters, whether it can be trained."""

from __future__ import annotations

from typing import Any

from textenv.algos.runtime import backend
from textenv.errors import ConfigError

backend.prepare()

import mlx.nn as nn  # noqa: E402
from mlx.utils import tree_flatten  # noqa: E402

from textenv.algos.lm.models.lora import (  # noqa: E402
    adapter_rank,
    has_lora,
    is_dora,
    lora_layers,
)

_SHOWN = 8  # names of modules in a description


def context_length(model: nn.Module) -> int | None:
    """The longest sequence that the model was made for, in tokens; None if its config lacks it."""
    args = getattr(model, "args", None)
    return getattr(args, "max_position_embeddings", None) or getattr(args, "n_positions", None)


def count_parameters(model: nn.Module, trainable: bool = False) -> int:
    """The number of a model's parameters; a quantized layer counts with its original weights.

    Args:
        model: an mlx-lm model.
        trainable: count only the parameters that are trained.
    """
    tree = model.trainable_parameters() if trainable else model.parameters()
    count = sum(value.size for value in dict(tree_flatten(tree)).values())
    if not trainable:
        for _, layer in quantized_layers(model):
            scales = layer.scales.size + (layer["biases"].size if "biases" in layer else 0)
            count += layer.weight.size * 32 // layer.bits - layer.weight.size - scales
    return count


def describe_trained(model: nn.Module) -> str:
    """What of a model is trained, in words: all weights, or how many of which adapters."""
    trained, whole = count_parameters(model, trainable=True), count_parameters(model)
    if trained == whole:
        return "all weights"
    layers = lora_layers(model)
    own = sum(
        value.size
        for _, layer in layers
        for name, value in dict(tree_flatten(layer.parameters())).items()
        if name.partition(".")[0] in ("lora_a", "lora_b", "m")
    )
    if not layers or trained > own:
        return f"{_share(trained, whole)} weights"
    kinds = sorted({"DoRA" if is_dora(layer) else "LoRA" for _, layer in layers})
    ranks = sorted({adapter_rank(layer) for _, layer in layers})
    blocks = [block for block in model.layers if has_lora(block)]
    names = list(dict.fromkeys(name.rpartition(".")[2] for name, _ in reversed(layers)))
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return (
        f"{' and '.join(kinds)} rank {', '.join(map(str, ranks))} on {len(blocks)} layer"
        f"{'s' * (len(blocks) > 1)} ({shown}): {_share(trained, whole - own)} weights"
    )


def _share(part: int, whole: int) -> str:
    if whole < 10_000_000:
        return f"{part:,} of {whole:,}"
    return f"{part / 1e6:.{1 if part >= 100_000 else 3}f} of {whole / 1e6:.1f} M"


def check_trainable(model: nn.Module) -> None:
    """Refuse a model whose weights cannot be trained as they are.

    Raises:
        ConfigError: if all weights are frozen or quantized, and there are no adapters.
    """
    if not count_parameters(model, trainable=True):
        raise ConfigError(
            "the model has no trainable weights: set lora_rank to train adapters of a frozen model"
        )
    if quantized_layers(model) and not has_lora(model):
        raise ConfigError(
            "the model is quantized, and rounded weights cannot be trained: set lora_rank to "
            "train adapters, or load it by load_model(name, dequantize=True)"
        )


def quantized_layers(model: nn.Module) -> list[tuple[str, Any]]:
    """The layers of a model whose weights are rounded to few bits, by name."""
    return [(name, m) for name, m in model.named_modules() if "scales" in m and hasattr(m, "bits")]
