"""Saves a model's adapters without the model, and gives them to a model that has none.

Two kinds of folders hold adapters: ``mlx_lm.load(..., adapter_path=)`` reads
``adapters.safetensors``, and PEFT, which has adapters for transformers' models, reads
``adapter_model.safetensors``. Beside both lies an ``adapter_config.json``.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textenv.algos.runtime import backend
from textenv.algos.storage.replacing import replacing
from textenv.errors import ConfigError, DataError, MissingFileError

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
from mlx.utils import tree_flatten  # noqa: E402

from textenv.algos.lm.models.card import CARD, card_patterns, write_card  # noqa: E402
from textenv.algos.lm.models.lora import (  # noqa: E402
    adapter_rank,
    dropout_of,
    freeze_base,
    has_lora,
    insert_adapters,
    is_adaptable,
    is_dora,
    lora_layers,
)
from textenv.algos.lm.models.peft import (  # noqa: E402
    PEFT_WEIGHTS,
    AdapterWeights,
    peft_files,
    read_peft,
)

MLX_WEIGHTS = "adapters.safetensors"
CONFIG = "adapter_config.json"
_PART = re.compile(r"(.+)\.(lora_a|lora_b|m)(\.\d+)?")


def save_adapters(
    model: nn.Module, folder: str | Path, peft: bool = False, card: str | None = None
) -> None:
    """Write a folder of a model's adapters alone, which `load_model` reads with ``adapters=``.

    The folder appears whole or not at all. Earlier adapters in it are replaced.

    Args:
        model: an mlx-lm model with adapters.
        folder: the folder to write.
        peft: whether it is PEFT's; else ``mlx_lm.load(..., adapter_path=)`` reads it.
        card: the text of a ``README.md`` that describes them; None writes none.

    Raises:
        ConfigError: if there are no adapters, if such a folder cannot hold those that there are,
            or if the folder holds something else than adapters, which is left as it is.
    """
    if not lora_layers(model):
        raise ConfigError(
            "the model has no adapters to save: train with lora_rank above 0, or save the model"
        )
    config, weights = peft_files(model) if peft else _mlx_files(model)
    own = (MLX_WEIGHTS, PEFT_WEIGHTS, CONFIG, *card_patterns(folder))
    with replacing(folder, own, keep=(CARD,)) as target:
        file = target / (PEFT_WEIGHTS if peft else MLX_WEIGHTS)
        # torch's readers of such files ask for this format.
        mx.save_safetensors(str(file), weights, metadata={"format": "pt" if peft else "mlx"})
        (target / CONFIG).write_text(json.dumps(config, indent=4) + "\n", encoding="utf-8")
        write_card(target, folder, card)


def load_adapters(model: nn.Module, folder: Path) -> None:
    """Give a model the adapters of a folder, and freeze all of it but these, in place.

    Args:
        model: an mlx-lm model without adapters.
        folder: adapters as mlx-lm or PEFT write them.

    Raises:
        MissingFileError: if the folder or a file in it is missing.
        DataError: if the files are broken, or are those of another model; names the folder.
    """
    config = _read_config(folder)
    peft = "peft_type" in config
    file = folder / (PEFT_WEIGHTS if peft else MLX_WEIGHTS)
    if not file.is_file():
        raise MissingFileError(f"{folder} holds no weights of adapters: {file.name} is missing")
    try:
        weights: Any = mx.load(str(file))
    except (RuntimeError, ValueError) as error:
        raise DataError(f"{file} is broken: {error}") from error
    _compare_names(config.get("base_model_name_or_path" if peft else "model"), model, folder)
    try:
        adapters = read_peft(config, weights, model) if peft else _read_mlx(config, weights)
        _attach(model, adapters)
    except (ConfigError, DataError) as error:
        raise DataError(f"adapters {folder}: {error}") from error
    freeze_base(model)
    mx.eval(model.parameters())


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not folder.is_dir():
        raise MissingFileError(f"adapters {folder} is not a folder")
    if not path.is_file():
        raise MissingFileError(f"{folder} holds no adapters: {CONFIG} is missing")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise DataError(f"{path} is not a JSON object")
    return config


def _compare_names(recorded: Any, model: nn.Module, folder: Path) -> None:
    """Warn if adapters say that they were trained on a model of another name."""
    name = getattr(model, "source_name", None)
    if not isinstance(recorded, str) or not recorded or name is None:
        return
    if Path(recorded).name != Path(name).name:  # a model may lie elsewhere than it did
        warnings.warn(
            f"adapters {folder} say that they were trained on {recorded}, and this model is {name}",
            stacklevel=4,
        )


def _attach(model: nn.Module, adapters: AdapterWeights) -> None:
    """Put adapters in their places.

    Raises:
        DataError: if a place or a shape is not this model's.
    """
    modules = dict(model.named_modules())
    groups: dict[tuple[int, float, bool], list[str]] = {}
    for name, value in adapters.weights.items():
        found = _PART.fullmatch(name)
        if found is None:
            raise DataError(f"{name} is no part of a low-rank adapter")
        place, part, number = found.groups()
        if not is_adaptable(modules.get(place)):
            raise DataError(
                f"they are those of another model: {place} is no layer of this one that an adapter "
                "can be for"
            )
        if part == "lora_a" and number in (None, ".0"):
            if value.ndim not in (2, 3):
                raise DataError(f"{name} must have 2 or 3 dimensions, got shape {value.shape}")
            rank = value.shape[-1 if value.ndim == 2 else -2]
            kind = rank, adapters.scales[place], f"{place}.m" in adapters.weights
            groups.setdefault(kind, []).append(place)
    for (rank, scale, dora), places in groups.items():
        insert_adapters(model, places, rank, scale, dora)
    expected = {name: value.shape for name, value in _weights_of(model).items()}
    shapes = {name: value.shape for name, value in adapters.weights.items()}
    for name in [*shapes, *expected]:
        if shapes.get(name) != expected.get(name):
            raise DataError(
                f"they are those of another model: {name} has shape {shapes.get(name, 'none')}, "
                f"and for this model it would have {expected.get(name, 'none')}"
            )
    own = [(name, value.astype(mx.float32)) for name, value in adapters.weights.items()]
    model.load_weights(own, strict=False)


def _read_mlx(config: Mapping[str, Any], weights: dict[str, mx.array]) -> AdapterWeights:
    kind = config.get("fine_tune_type", "lora")
    if kind not in ("lora", "dora"):
        raise DataError(f"fine_tune_type must be lora or dora, got {kind!r:.40}")
    settings = config.get("lora_parameters")
    scale: Any = settings.get("scale") if isinstance(settings, dict) else None
    if type(scale) not in (int, float) or not math.isfinite(scale):
        raise DataError(f"lora_parameters of {CONFIG} must have a scale, got {settings!r:.80}")
    places = {name.rpartition(".lora_a")[0] for name in weights if ".lora_a" in name}
    return AdapterWeights(weights, dict.fromkeys(places, float(scale)))


def _mlx_files(model: nn.Module) -> tuple[dict[str, Any], dict[str, mx.array]]:
    """The config and the weights of adapters, as mlx-lm writes them."""
    layers = lora_layers(model)
    ranks, kinds = {adapter_rank(x) for _, x in layers}, {is_dora(x) for _, x in layers}
    if len(ranks) > 1 or len(kinds) > 1:
        raise ConfigError(
            "mlx-lm's files have one rank and one kind for all adapters, and these have "
            f"rank {' and '.join(map(str, sorted(ranks)))}{', LoRA and DoRA' * (len(kinds) > 1)}: "
            "save them with peft=True"
        )
    blocks = list(model.layers)
    inside = {id(m): name for block in blocks for name, m in block.named_modules()}
    first = next((i for i, block in enumerate(blocks) if has_lora(block)), 0)
    scale = float(layers[0][1].scale)
    weights = _weights_of(model)
    for name, layer in layers:  # mlx-lm has one scale for all adapters
        if layer.scale != scale:
            weights[f"{name}.lora_b"] = weights[f"{name}.lora_b"] * (layer.scale / scale)
    config = {
        "fine_tune_type": "dora" if True in kinds else "lora",
        "lora_parameters": {
            "dropout": dropout_of(layers[0][1]),
            "keys": sorted({inside.get(id(layer), name) for name, layer in layers}),
            "rank": ranks.pop(),
            "scale": scale,
        },
        "model": getattr(model, "source_name", None),
        "num_layers": len(blocks) - first,
    }
    return config, weights


def _weights_of(model: nn.Module) -> dict[str, mx.array]:
    """The weights of all adapters, by their full names."""
    weights = {}
    for place, layer in lora_layers(model):
        parts = {part: layer[part] for part in ("lora_a", "lora_b", "m") if part in layer}
        flat: Any = tree_flatten(parts)
        weights.update({f"{place}.{name}": value for name, value in flat})
    return weights
