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
    ids = np.fromiter(tokenizer.ids, int)
    beyond = set(ids[ids >= rows].tolist()) - tokenizer.special_ids
    if beyond:
        raise DataError(
            f"{name}: the tokenizer has token ids up to {max(beyond)}, and the model's embedding "
            f"has {rows} rows; use the tokenizer that the model was made with"
        )
    known = np.zeros(rows, bool)
    known[ids[ids < rows]] = True
    model.known_ids = known


def embedding_rows(model: nn.Module) -> int | None:
    """How many token ids a model takes; None if it has no embedding that can be found."""
    embeddings = (nn.Embedding, nn.QuantizedEmbedding)
    # A model may have others, which are smaller, such as one of positions.
    rows = [m.weight.shape[0] for _, m in model.named_modules() if isinstance(m, embeddings)]
    return max(rows, default=None)


def check_ids(rows: int | None, *ids: Any) -> None:
    """Refuse token ids that a model has no rows for, where it would read memory of others.

    Args:
        rows: from `embedding_rows`.
        ids: lists or arrays of token ids.

    Raises:
        DataError: with the first list's largest id and the number of rows.
    """
    for some in ids:
        largest = int(np.max(some, initial=0))
        if rows is not None and largest >= rows:
            raise DataError(
                f"there is token id {largest}, and the model's embedding has {rows} rows: the "
                "tokens are another model's, or a special token that this model cannot read"
            )


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
