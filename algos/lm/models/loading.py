"""Loads a language model and its tokenizer, by name or from a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from textenv.algos.runtime import backend
from textenv.errors import ConfigTypeError, DataError, MissingFileError
from textenv.hub import find_folder

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
import mlx_lm.utils  # noqa: E402
from mlx.utils import tree_map  # noqa: E402

from textenv.algos.lm.kernels.fast_math import use_fast_swiglu  # noqa: E402
from textenv.algos.lm.kernels.rms_norm import use_fast_norm  # noqa: E402
from textenv.algos.lm.kernels.rotary import use_fast_rope  # noqa: E402
from textenv.algos.lm.memory.weights_size import check_weights, weight_names  # noqa: E402
from textenv.algos.lm.models.adapters import load_adapters  # noqa: E402
from textenv.algos.lm.models.dequantizing import (  # noqa: E402
    dequantize_on_cpu,
    to_plain_weights,
)
from textenv.algos.lm.models.vocabulary import fit_vocabulary  # noqa: E402

_MOST = {  # the largest sizes that a config may name
    "num_hidden_layers": 10_000,
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "head_dim"), 100_000),
    **dict.fromkeys(("hidden_size", "vocab_size", "max_position_embeddings"), 10**9),
}
_FILES = ["*.json", "model*.safetensors", "*.model", "*.tiktoken", "*.txt", "*.jsonl", "*.jinja"]


def resolve_model(
    model: Any, tokenizer: Any = None, adapters: str | Path | None = None
) -> tuple[nn.Module, Any]:
    """A model and its tokenizer, loaded if a name or a folder is given.

    Args:
        model: a name or a folder for `load_model`, or an mlx-lm model.
        tokenizer: the tokenizer, if the model itself is given.
        adapters: a folder of adapters for `load_model`, if a name or a folder is given.

    Raises:
        ConfigTypeError: if a model itself is given without its tokenizer, or with adapters.
    """
    if isinstance(model, (str, Path)):
        return load_model(model, adapters)
    if adapters is not None:
        raise ConfigTypeError(
            "adapters= is for a model that is named; load_model(name, adapters=...) gives a model "
            "that has them already"
        )
    if tokenizer is None:
        raise ConfigTypeError("a model that is passed itself needs its tokenizer=")
    fit_vocabulary(model, tokenizer)
    return model, tokenizer


def load_model(
    name: str | Path, adapters: str | Path | None = None, *, dequantize: bool | None = None
) -> tuple[nn.Module, Any]:
    """Load a language model and its tokenizer.

    On a CPU the weights become float32, because products in half precision do not use the BLAS.
    Those of a quantized model do too, if there is the memory for it: a CPU runs it several times
    faster so. A warning says what was done.

    Args:
        name: ``"tiny-lm"`` (ships with the package), a folder that `mlx_lm.load` reads, or the
            name of a model on the Hugging Face hub, which is downloaded if it is not cached.
        adapters: a folder of adapters that were trained on this model, as mlx-lm or PEFT write
            them. The model then has them, and they alone are trained further.
        dequantize: whether a quantized model is given float32 weights; None: on a CPU, if there is
            the memory for it.

    Returns:
        The model, and mlx-lm's tokenizer wrapper.

    Raises:
        MissingFileError: if a folder, or a file in it, is missing; names it.
        DataError: if the folder does not hold a model that mlx-lm can build, or holds a tokenizer
            with more ids than the model has rows, or if the adapters are those of another model;
            names it.
        OutOfMemoryError: if the weights alone are too large for memory; none of them is read.
    """
    folder = find_folder(str(name), "model", _FILES)
    for needed in ("config.json", "tokenizer_config.json"):
        if not (folder / needed).is_file():
            what = "tokenizer" if needed.startswith("tokenizer") else "model"
            raise MissingFileError(f"{folder} holds no {what}: {needed} is missing")
    try:
        config = mlx_lm.utils.load_config(folder)
    except ValueError as error:  # also for bytes that are no text, and for too many digits
        raise DataError(f"{folder / 'config.json'} is not JSON: {error}") from error
    except (AttributeError, TypeError, RecursionError) as error:  # of generation_config.json too
        raise DataError(f"{folder}: a config is not a JSON object: {_said(error)}") from error
    if not isinstance(config, dict):
        raise DataError(f"{folder / 'config.json'} is not a JSON object")
    check_config(config, folder)
    check_weights(folder)
    try:
        model, _ = mlx_lm.utils.load_model(folder)
    except FileNotFoundError as error:
        raise MissingFileError(f"{folder} holds no weights: {error}") from error
    except Exception as error:  # of any of mlx-lm's architectures
        raise DataError(f"{folder} does not hold a model that loads: {_said(error)}") from error
    try:
        # Without the setting, transformers asks whether to run code of the folder.
        tokenizer = mlx_lm.utils.load_tokenizer(
            folder, {"trust_remote_code": False}, eos_token_ids=config.get("eos_token_id", None)
        )
    except Exception as error:  # of any of transformers' tokenizers
        raise DataError(f"{folder} does not hold a tokenizer that loads: {_said(error)}") from error
    check_template(tokenizer, folder)
    if not hasattr(model, "_no_grad"):  # recurrent_gemma's class does not call its base's __init__
        nn.Module.__init__(model)
    fit_vocabulary(model, tokenizer, folder)
    if mx.default_device() == mx.cpu:
        model.update(tree_map(_to_float32, model.parameters()))
    if dequantize is None:
        dequantize_on_cpu(model, name)
    elif dequantize:
        to_plain_weights(model)
    try:
        use_fast_swiglu(model)
        use_fast_norm(model)
        use_fast_rope(model)
    except (ValueError, TypeError, ArithmeticError) as error:  # a rope_theta of text, say
        raise DataError(f"{folder} does not hold a model that runs: {_said(error)}") from error
    mx.eval(model)  # its parameters, and what else it holds: another thread may run it
    model.source, model.source_name = folder, str(name)
    # What saving needs of the folder, which may be gone by then; a dict would count as weights.
    model.source_config = json.dumps(config)
    model.source_weights = weight_names(folder)
    if adapters is not None:
        load_adapters(model, Path(adapters))
    return model, tokenizer


def check_config(config: dict[str, Any], folder: Path) -> None:
    """Check what a model's config says before anything is built or run by it.

    Raises:
        DataError: for code in the folder, or a size that no model has; names the folder.
    """
    if config.get("model_file") is not None:
        raise DataError(
            f"{folder}: config.json names a file of code, {config['model_file']!r:.80}, and code "
            "of a model's folder is not run: use an architecture that mlx-lm has"
        )
    ends = config.get("eos_token_id")
    for end in ends if isinstance(ends, list) else [ends]:
        if end is not None and type(end) is not int:
            raise DataError(f"{folder}: eos_token_id must be a token id, got {end!r:.40}")
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        for key, most in _MOST.items():
            value = part.get(key)
            if isinstance(value, (int, float)) and not (type(value) is int and 0 < value <= most):
                raise DataError(
                    f"{folder}: {key} of config.json must be a whole number from 1 to {most}, got "
                    f"{value!r:.40}"
                )


def check_template(tokenizer: Any, folder: Path) -> None:
    """Check that a tokenizer's chat template, if it has one, renders a user's message.

    A template that refuses that message by its own ``raise_exception`` is one that runs.

    Raises:
        DataError: for a template that does not; names the folder.
    """
    if not getattr(tokenizer, "has_chat_template", False):
        return
    try:
        tokenizer.apply_chat_template(
            [{"role": "user", "content": "a"}], tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # a template may do anything that Python can
        if type(error).__name__ != "TemplateError":
            raise DataError(
                f"{folder}: its chat template does not render a message: {_said(error)}"
            ) from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _to_float32(value: mx.array) -> mx.array:
    half = value.dtype in (mx.float16, mx.bfloat16)
    return value.astype(mx.float32) if half else value
