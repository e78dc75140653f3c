"""Saves a model to a folder that `mlx_lm.load` reads."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from textenv.algos.runtime import backend
from textenv.algos.storage.replacing import replacing
from textenv.errors import MissingFileError, StorageError

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
import mlx_lm.utils  # noqa: E402
from mlx.utils import tree_flatten, tree_unflatten  # noqa: E402

from textenv.algos.lm.models.card import CARD, card_patterns, write_card  # noqa: E402
from textenv.algos.lm.models.lora import lora_layers  # noqa: E402
from textenv.algos.lm.models.properties import quantized_layers  # noqa: E402

MODEL_FILES = (
    *(
        "config.json",
        "generation_config.json",
        "model*.safetensors",
        "model.safetensors.index.json",
    ),
    *("tokenizer*.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "*.spm", "spiece.model", "sentencepiece*.model"),
    *("*.tiktoken", "chat_template.jinja", "chat_template.json", "additional_chat_templates"),
    *("value_head.safetensors", "strategy.json"),  # of PPO, and of a strategy
)
"""Patterns of the files that a folder of a language model may have, and that saving replaces."""


def save_model(
    model: nn.Module,
    tokenizer: Any,
    folder: str | Path,
    beside: Mapping[str, Callable[[Path], None]] | None = None,
    card: str | None = None,
) -> None:
    """Write a folder that `mlx_lm.load` reads, with LoRA layers merged into the weights.

    The merged layers of a quantized model are written unquantized: rounded again, they would lose
    much of what was learnt. The folder appears whole or not at all, and an earlier model in it is
    replaced.

    Args:
        model: an mlx-lm model.
        tokenizer: its tokenizer.
        folder: the folder to write.
        beside: functions that write further files of `MODEL_FILES`, by their names.
        card: the text of a ``README.md``; None writes none. One that this program did not write
            stays as it is.

    Raises:
        ConfigError: if the folder holds something else than a model; it is left as it is.
        StorageError: if the disk takes no more.
    """
    source = getattr(model, "source_config", None)
    config = (
        json.loads(source)
        if source is not None
        else dataclasses.asdict(model.args) | {"model_type": model.model_type}
    )
    vocabulary = getattr(tokenizer, "vocab_files_names", {})  # names that a class has of its own
    own = (*MODEL_FILES, *vocabulary.values(), *card_patterns(folder))
    with replacing(folder, own, keep=(CARD,)) as target:
        with _merged(model) as merged:
            try:
                mlx_lm.utils.save_model(target, model)
            except RuntimeError as error:
                if "write" not in str(error):  # MLX has no error of its own for a full disk
                    raise
                raise StorageError(f"the model cannot be written to {folder}: {error}") from error
            config = _quantization_config(dict(config), model, merged)
            _name_type(config, model)
        mlx_lm.utils.save_config(config, target / "config.json")
        _save_tokenizer(tokenizer, target, getattr(model, "source", None))
        for name, write in (beside or {}).items():
            write(target / name)
        write_card(target, folder, card)


def _save_tokenizer(tokenizer: Any, target: Path, source: Path | None) -> None:
    """Write a tokenizer's files.

    Raises:
        MissingFileError: if they must be copied from the folder that it was read from, and that
            folder is gone.
    """
    try:
        tokenizer.save_pretrained(str(target))
    except OSError as error:
        if source is None or source.is_dir():
            raise
        raise MissingFileError(
            f"the tokenizer cannot be written, since {source}, which it was read from, is gone: "
            "put that folder back, and save again"
        ) from error


def _name_type(config: dict[str, Any], model: nn.Module) -> None:
    """Let a config that names the type of its weights name that of a model's, in place.

    A program that believes the config would round float32 weights on reading.
    """
    numbers: Counter[str] = Counter()
    flat: Any = tree_flatten(model.parameters())
    for _, weight in flat:
        if mx.issubdtype(weight.dtype, mx.floating):
            numbers[str(weight.dtype).rpartition(".")[2]] += weight.size
    for part in (config, config.get("text_config")):
        for key in ("torch_dtype", "dtype"):
            if isinstance(part, dict) and part.get(key) and numbers:
                part[key] = numbers.most_common(1)[0][0]


@contextmanager
def _merged(model: nn.Module) -> Iterator[list[str]]:
    """A block in which plain layers of the same function stand in place of LoRA layers.

    Gives the names of the layers.
    """
    layers = lora_layers(model)
    try:
        plain = [(name, _fused(layer)) for name, layer in layers]
        model.update_modules(tree_unflatten(plain))
        yield [name for name, _ in layers]
    finally:
        model.update_modules(tree_unflatten(layers))


def _fused(layer: Any) -> nn.Module:
    """A plain layer of the same function, in the precision of the weights below the adapter."""
    below = layer["linear"] if "linear" in layer else layer["embedding"]
    fused = layer.fuse(dequantize=True)
    kept = below.get("scales", below.weight)
    if mx.issubdtype(kept.dtype, mx.floating):  # mxfp4 has scales of whole numbers
        fused.weight = fused.weight.astype(kept.dtype)  # DoRA's lengths are float32
    return fused


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
        if not layers:  # they have plain weights now
            config.pop(key, None)
        elif isinstance(config.get(key), dict):
            config[key] = {name: v for name, v in config[key].items() if name not in merged}
    return config
