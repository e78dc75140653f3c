"""Compares a model's vocabulary with its tokenizer's: rows without a token, tokens without a row.

Many models have more rows in their embedding and their head than the tokenizer has tokens, for the
sake of round numbers. Ids of such rows decode to nothing. Their logits are masked, in sampling and
in scoring alike, so that both know one and the same distribution.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from textenv.algos.runtime import backend
from textenv.errors import DataError
from textenv.tokenizers import load_tokenizer

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402


def fit_vocabulary(model: nn.Module, tokenizer: Any, name: object = "the model") -> None:
    """Compare a model with its tokenizer, and note for `mask_unknown` which ids are tokens.

    It sets ``model.known_ids`` (V,), whether each id is a token that the model has a row for.

    Args:
        model: an mlx-lm model.
        tokenizer: its tokenizer.
        name: what the model is called in a message.

    Raises:
        DataError: if ordinary text has ids beyond the model's embedding, where the model would
            read memory that is not its own. Special tokens may have such ids, because some models
            are sold with them; a text that holds one is refused when it is encoded.
    """
    tokenizer = load_tokenizer(tokenizer)
    rows = embedding_rows(model) or tokenizer.vocab_size
    beyond = [i for i in tokenizer.ids - tokenizer.special_ids if i >= rows]
    if beyond:
        raise DataError(
            f"{name}: the tokenizer has token ids up to {max(beyond)}, and the model's embedding "
            f"has {rows} rows; use the tokenizer that the model was made with"
        )
    known = np.zeros(rows, bool)
    known[[i for i in tokenizer.ids if i < rows]] = True
    model.known_ids = known


def embedding_rows(model: nn.Module) -> int | None:
    """How many token ids a model takes; None if it has no embedding that can be found."""
    embeddings = (nn.Embedding, nn.QuantizedEmbedding)
    # A model may have others, which are smaller, such as one of positions.
    rows = [m.weight.shape[0] for _, m in model.named_modules() if isinstance(m, embeddings)]
    return max(rows, default=None)


def mask_unknown(model: nn.Module) -> Callable[[mx.array], mx.array]:
    """A function that sets logits (..., V) to -inf for ids that are no tokens.

    Args:
        model: a model. If `fit_vocabulary` has not seen it, all ids count as tokens.
    """
    known = getattr(model, "known_ids", None)

    @cache
    def inside(width: int) -> mx.array | None:
        if known is None or (width <= len(known) and known[:width].all()):
            return None
        return mx.array(np.resize(known, width) & (np.arange(width) < len(known)))

    def mask(logits: mx.array) -> mx.array:
        tokens = inside(logits.shape[-1])
        return logits if tokens is None else mx.where(tokens, logits, -mx.inf)

    return mask
