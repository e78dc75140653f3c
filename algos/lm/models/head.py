"""Splits a model into its layers, which make hidden states, and its head, which makes logits."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402


def split_head(
    model: nn.Module,
) -> tuple[Callable[..., mx.array], Callable[[mx.array], mx.array]]:
    """A model in two parts: a body ``(ids, cache) -> hidden`` and a head ``hidden -> logits``.

    With them logits are computed only for the positions that need them. A try shows whether an
    architecture does more than these two, such as scaling or capping logits. Then the body is the
    whole model, and the head returns its input.
    """
    inner = getattr(model, "model", None)
    head = getattr(model, "lm_head", None)
    if inner is not None and head is None:
        head = getattr(getattr(inner, "embed_tokens", None), "as_linear", None)
    if callable(inner) and callable(head) and "cache" in inspect.signature(inner).parameters:

        def body(ids: mx.array, cache: Any = None) -> mx.array:
            return inner(ids, cache=cache)  # by name: not every architecture has it as the second

        ids = mx.array([[0, 1]])
        whole = model(ids)
        parts = head(body(ids))
        if whole.shape == parts.shape and mx.array_equal(whole, parts).item():
            return body, head
    return (lambda ids, cache=None: model(ids, cache=cache)), (lambda hidden: hidden)
