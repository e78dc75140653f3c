"""Language models: loading, saving, LoRA, and the two halves of a forward pass."""

from __future__ import annotations

import dataclasses
import inspect
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from textenv.algos.runtime import backend
from textenv.errors import ConfigError, DataError, MissingFileError
from textenv.hub import find_folder

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
import mlx_lm.utils  # noqa: E402
from mlx.utils import tree_flatten, tree_map  # noqa: E402
from mlx_lm.tuner.utils import linear_to_lora_layers  # noqa: E402

from textenv.algos.lm.kernels.fast_math import use_fast_swiglu  # noqa: E402
from textenv.algos.lm.kernels.rms_norm import use_fast_norm  # noqa: E402
from textenv.algos.lm.kernels.rotary import use_fast_rope  # noqa: E402
from textenv.algos.lm.memory.watch import check_weights  # noqa: E402

_FILES = ["*.json", "model*.safetensors", "*.model", "*.tiktoken", "*.txt", "*.jsonl", "*.jinja"]


def load_model(name: str | Path) -> tuple[nn.Module, Any]:
    """Load a language model and its tokenizer.

    On a CPU the weights become float32: half-precision products there do not use the BLAS.

    Args:
        name: ``"tiny-lm"`` (ships with the package), a folder that `mlx_lm.load` reads, or the
            name of a model on the Hugging Face hub, which is downloaded where it is not cached.

    Returns:
        The model, and mlx-lm's tokenizer wrapper.

    Raises:
        MissingFileError: where the folder, or a file in it, is not there; names it.
        DataError: where the folder does not hold a model that mlx-lm can build; names it.
        OutOfMemoryError: where the weights alone are too large for memory; none of them is read.
    """
    folder = find_folder(str(name), "model", _FILES)
    for needed in ("config.json", "tokenizer_config.json"):
        if not (folder / needed).is_file():
            what = "tokenizer" if needed.startswith("tokenizer") else "model"
            raise MissingFileError(f"{folder} holds no {what}: {needed} is missing")
    try:
        config = mlx_lm.utils.load_config(folder)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{folder / 'config.json'} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise DataError(f"{folder / 'config.json'} is not a JSON object")
    check_weights(folder)
    try:
        model, _ = mlx_lm.utils.load_model(folder)
    except FileNotFoundError as error:
        raise MissingFileError(f"{folder} holds no weights: {error}") from error
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise DataError(f"{folder} does not hold a model that loads: {error}") from error
    try:
        tokenizer = mlx_lm.utils.load_tokenizer(
            folder, eos_token_ids=config.get("eos_token_id", None)
        )
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise DataError(f"{folder} does not hold a tokenizer that loads: {error}") from error
    if not hasattr(model, "_no_grad"):  # recurrent_gemma's class does not call its base's
        nn.Module.__init__(model)
    if mx.default_device() == mx.cpu:
        model.update(tree_map(_to_float32, model.parameters()))
    use_fast_swiglu(model)
    use_fast_norm(model)
    use_fast_rope(model)
    mx.eval(model.parameters())
    model.source = folder  # where save_model finds the config
    return model, tokenizer


def save_model(
    model: nn.Module,
    tokenizer: Any,
    folder: str | Path,
    beside: Mapping[str, dict[str, mx.array]] | None = None,
) -> None:
    """Write a folder that `mlx_lm.load` reads; LoRA layers are merged in the copy written.

    Of a quantized model the merged layers are written unquantized: rounded again they would
    lose much of what was learnt. The folder appears whole or not at all; one that is there
    already is replaced.

    Args:
        model: an mlx-lm model.
        tokenizer: its tokenizer.
        folder: where to.
        beside: safetensors files of other weights, by name; not ``model*``, which mlx-lm reads.
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


def split_head(
    model: nn.Module,
) -> tuple[Callable[..., mx.array], Callable[[mx.array], mx.array]]:
    """The model as a body ``(ids, cache) -> hidden`` and a head ``hidden -> logits``.

    So that logits are computed only where they are needed. Architectures that do more between
    the two (scaled or capped logits) are found out by a probe: there the body is the whole
    model, and the head changes nothing.
    """
    inner = getattr(model, "model", None)
    head = getattr(model, "lm_head", None)
    if inner is not None and head is None:
        head = getattr(getattr(inner, "embed_tokens", None), "as_linear", None)
    if callable(inner) and callable(head) and "cache" in inspect.signature(inner).parameters:

        def body(ids: mx.array, cache: Any = None) -> mx.array:
            return inner(ids, cache=cache)  # by name: not every architecture has it second

        probe = mx.array([[0, 1]])
        whole = model(probe)
        parts = head(body(probe))
        if whole.shape == parts.shape and mx.array_equal(whole, parts).item():
            return body, head
    return (lambda ids, cache=None: model(ids, cache=cache)), (lambda hidden: hidden)


def context_length(model: nn.Module) -> int | None:
    """Longest sequence that the model was made for, in tokens, where its config says so."""
    args = getattr(model, "args", None)
    return getattr(args, "max_position_embeddings", None) or getattr(args, "n_positions", None)


def count_parameters(model: nn.Module, trainable: bool = False) -> int:
    """Number of parameters, of all or of those that are trained; of quantized layers, weights."""
    tree = model.trainable_parameters() if trainable else model.parameters()
    count = sum(value.size for value in dict(tree_flatten(tree)).values())
    if not trainable:
        for _, layer in _quantized_layers(model):
            scales = layer.scales.size + (layer["biases"].size if "biases" in layer else 0)
            count += layer.weight.size * 32 // layer.bits - layer.weight.size - scales
    return count


def check_trainable(model: nn.Module) -> None:
    """Refuse a model whose weights cannot be trained as they are.

    Raises:
        ConfigError: where all are frozen, or quantized, and there are no adapters.
    """
    if not count_parameters(model, trainable=True):
        raise ConfigError(
            "the model has no trainable weights: set lora_rank to train adapters of a frozen model"
        )
    if _quantized_layers(model) and not has_lora(model):
        raise ConfigError(
            "the model is quantized, and rounded weights cannot be trained: set lora_rank to "
            "train adapters, or load the model as it was before it was quantized"
        )


def add_lora(model: nn.Module, rank: int, scale: float, seed: int) -> None:
    """Freeze a model and add low-rank adapters (Hu et al. 2021) to its linear layers, in place.

    Args:
        model: an mlx-lm model.
        rank: rank of each adapter.
        scale: what the adapter's output is multiplied by.
        seed: seed of the adapters' first factor; the second starts at zero.
    """
    model.freeze()
    linear_to_lora_layers(
        model, len(model.layers), {"rank": rank, "scale": scale, "dropout": 0.0, "keys": None}
    )
    key = mx.random.key(seed)
    for _, module in _lora_layers(model):
        several = isinstance(module.lora_a, list)  # of layers that compute many products
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
    """The model as it was before `add_lora`, for the time of a ``with`` block."""
    scales = [(module, module.scale) for _, module in _lora_layers(model)]
    try:
        for module, _ in scales:
            module.scale = 0.0
        yield
    finally:
        for module, scale in scales:
            module.scale = scale


def has_lora(model: nn.Module) -> bool:
    """Whether `add_lora` was called on the model."""
    return bool(_lora_layers(model))


@contextmanager
def _merged(model: nn.Module) -> Iterator[list[str]]:
    """LoRA layers replaced by plain ones of the same function, for the time of a block.

    Gives the names of the layers.
    """
    from mlx.utils import tree_unflatten

    layers = _lora_layers(model)
    try:
        plain = [(name, layer.fuse(dequantize=True)) for name, layer in layers]
        model.update_modules(tree_unflatten(plain))
        yield [name for name, _ in layers]
    finally:
        model.update_modules(tree_unflatten(layers))


def _quantization_config(
    config: dict[str, Any], model: nn.Module, merged: list[str]
) -> dict[str, Any]:
    """A config that says how a model is quantized, and nothing of the layers that are not."""
    layers = _quantized_layers(model)
    if layers and not (config.get("quantization") or config.get("quantization_config")):
        # It was quantized since it was loaded. Where layers differ, the loader finds out.
        layer = layers[0][1]
        names = ("group_size", "bits", "mode")
        config["quantization"] = {name: getattr(layer, name) for name in names}
    for key in ("quantization", "quantization_config"):
        if isinstance(config.get(key), dict):
            config[key] = {name: v for name, v in config[key].items() if name not in merged}
    return config


def _lora_layers(model: nn.Module) -> list[tuple[str, Any]]:
    return [(name, m) for name, m in model.named_modules() if "lora_a" in m and "lora_b" in m]


def _quantized_layers(model: nn.Module) -> list[tuple[str, Any]]:
    return [(name, m) for name, m in model.named_modules() if "scales" in m and hasattr(m, "bits")]


def _to_float32(value: mx.array) -> mx.array:
    half = value.dtype in (mx.float16, mx.bfloat16)
    return value.astype(mx.float32) if half else value
