"""Floating-point operations and bytes that a rollout and an update need at the least.

A multiplication and an addition for each parameter that multiplies and each token that it is
computed for; scores and sums of attention likewise. A prompt is computed once for its group. A
backward costs twice its forward (Kaplan et al. 2020, arXiv 2001.08361, section 2.1). Norms,
exponentials, the optimizer, and what is computed a second time to save memory are not counted.
"""

from __future__ import annotations

from typing import NamedTuple

from textenv.algos.bench.workload import ModelSize


class Amount(NamedTuple):
    """What was computed in a step."""

    prompts: int
    """Distinct ones."""
    prompt_tokens: float
    """Of each, in the mean."""
    completions: int
    completion_tokens: float
    """Of each, in the mean."""
    decode_steps: int = 0
    """Times that the weights were read to go a token further."""


def generate_flops(size: ModelSize, amount: Amount) -> float:
    """Prefill of each prompt, then each token but the last of each completion."""
    written = amount.completions * max(0.0, amount.completion_tokens - 1)
    return _body(size, amount) + 2 * size.head_matrix * (amount.prompts + written)


def update_flops(size: ModelSize, amount: Amount) -> float:
    """Forward and backward; the head at each token of the completions."""
    head = 2 * size.head_matrix * amount.completions * amount.completion_tokens
    return 3 * (_body(size, amount) + head)


def decode_bytes(size: ModelSize, amount: Amount) -> float:
    """Float32 weights, read once a decode step, and the cached keys and values that it attends."""
    weights = size.layers * size.layer_matrices + size.head_matrix
    per_token = 2 * size.layers * size.kv_heads * size.head_dim
    prompts = amount.prompts * amount.prompt_tokens * amount.decode_steps
    n = max(0.0, amount.completion_tokens - 1)
    return 4 * (weights * amount.decode_steps + per_token * (prompts + _pairs(n, amount)))


def _body(size: ModelSize, amount: Amount) -> float:
    """Forward of the layers: every prompt once, every completion but its last token."""
    length, n = amount.prompt_tokens, max(0.0, amount.completion_tokens - 1)
    tokens = amount.prompts * length + amount.completions * n
    # A token attends itself and all before it.
    pairs = amount.prompts * length * (length + 1) / 2
    pairs += amount.completions * n * length + _pairs(n, amount)
    attention = 4 * size.heads * size.head_dim * pairs
    return size.layers * (2 * size.layer_matrices * tokens + attention)


def _pairs(n: float, amount: Amount) -> float:
    """Query and key pairs within the completions."""
    return amount.completions * n * (n + 1) / 2
