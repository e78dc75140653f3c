"""The fewest floating-point operations and bytes that a rollout and an update can need.

Counted are a multiplication and an addition for each parameter that multiplies and each token that
it is computed for, and the same for the scores and sums of attention. A prompt is computed once for
its group. A backward costs twice its forward (Kaplan et al. 2020, arXiv 2001.08361, section 2.1).
Norms, exponentials, the optimizer, and what is computed again to save memory are not counted.
"""

from __future__ import annotations

from typing import NamedTuple

from textenv.algos.bench.workload import ModelSize


class Amount(NamedTuple):
    """The prompts and completions of a step."""

    prompts: int
    """How many different prompts."""
    prompt_tokens: float
    """Mean length of a prompt."""
    completions: int
    completion_tokens: float
    """Mean length of a completion."""
    decode_steps: int = 0
    """How often the weights were read to generate one more token."""


def generate_flops(size: ModelSize, amount: Amount) -> float:
    """Operations to generate: each prompt once, then each token of a completion but the last."""
    written = amount.completions * max(0.0, amount.completion_tokens - 1)
    return _body(size, amount) + 2 * size.head_matrix * (amount.prompts + written)


def update_flops(size: ModelSize, amount: Amount) -> float:
    """Operations of an update: forward and backward, the head at each token of a completion."""
    head = 2 * size.head_matrix * amount.completions * amount.completion_tokens
    return 3 * (_body(size, amount) + head)


def decode_bytes(size: ModelSize, amount: Amount) -> float:
    """Bytes to generate: float32 weights and cached keys and values, read at each decode step."""
    weights = size.layers * size.layer_matrices + size.head_matrix
    per_token = 2 * size.layers * size.kv_heads * size.head_dim
    prompts = amount.prompts * amount.prompt_tokens * amount.decode_steps
    n = max(0.0, amount.completion_tokens - 1)
    return 4 * (weights * amount.decode_steps + per_token * (prompts + _pairs(n, amount)))


def _body(size: ModelSize, amount: Amount) -> float:
    """Operations of the layers' forward: every prompt once, every completion but its last token."""
    length, n = amount.prompt_tokens, max(0.0, amount.completion_tokens - 1)
    tokens = amount.prompts * length + amount.completions * n
    # A token attends to itself and to all tokens before it.
    pairs = amount.prompts * length * (length + 1) / 2
    pairs += amount.completions * n * length + _pairs(n, amount)
    attention = 4 * size.heads * size.head_dim * pairs
    return size.layers * (2 * size.layer_matrices * tokens + attention)


def _pairs(n: float, amount: Amount) -> float:
    """Pairs of a query and a key within the completions."""
    return amount.completions * n * (n + 1) / 2
