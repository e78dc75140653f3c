"""Saves a model to a folder that `mlx_lm.load` reads."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
import mlx_lm.utils  # noqa: E402
from mlx.utils import tree_unflatten  # noqa: E402

from textenv.algos.lm.models.lora import lora_layers  # noqa: E402
from textenv.algos.lm.models.properties import quantized_layers  # noqa: E402


def save_model(
    model: nn.Module,
    tokenizer: Any,
    folder: str | Path,
    beside: Mapping[str, dict[str, mx.array]] | None = None,
) -> None:
    """Write a folder that `mlx_lm.load` reads, with LoRA layers merged into the weights.

    The merged layers of a quantized model are written unquantized: rounded again, they would lose
    much of what was learnt. The folder appears whole or not at all, and replaces one that exists.

    Args:
        model: an mlx-lm model.
        tokenizer: its tokenizer.
        folder: the folder to write.
        beside: other weights for safetensors files of these names; not ``model*``, which mlx-lm
            reads.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    source = getattr(model, "source", None)
    config = (
        mlx_lm.utils.load_config(source)
        if source is not None
        else dataclasses.asdict(model.args) | {"model_type": model.model_type}
    )
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".saving-") as temporary:
        target = Path(temporary) / folder.name
        with _merged(model) as merged:
            mlx_lm.utils.save_model(target, model)
            config = _quantization_config(dict(config), model, merged)
        mlx_lm.utils.save_config(config, target / "config.json")
        tokenizer.save_pretrained(str(target))
        for name, weights in (beside or {}).items():
            mx.save_safetensors(str(target / name), weights)
        if folder.exists():
            shutil.rmtree(folder)
        target.rename(folder)


@contextmanager
def _merged(model: nn.Module) -> Iterator[list[str]]:
    """A block in which plain layers of the same function stand in place of LoRA layers.

    Gives the names of the layers.
    """
    layers = lora_layers(model)
    try:
        plain = [(name, layer.fuse(dequantize=True)) for name, layer in layers]
        model.update_modules(tree_unflatten(plain))
        yield [name for name, _ in layers]
    finally:
        model.update_modules(tree_unflatten(layers))


def _quantization_config(
    config: dict[str, Any], model: nn.Module, merged: list[str]
) -> dict[str, Any]:
    """A config that says how a model is quantized, without the layers that are merged."""
    layers = quantized_layers(model)
    if layers and not (config.get("quantization") or config.get("quantization_config")):
        # It was quantized after it was loaded. If layers differ, the loader finds out.
        layer = layers[0][1]
        names = ("group_size", "bits", "mode")
        config["quantization"] = {name: getattr(layer, name) for name in names}
    for key in ("quantization", "quantization_config"):
        if isinstance(config.get(key), dict):
            config[key] = {name: v for name, v in config[key].items() if name not in merged}
    return config
