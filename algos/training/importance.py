"""Corrects a batch that older weights have sampled, by truncated importance weights.

The batch's log-probabilities become those of the present weights, from which the ratio of the loss
is counted and clipped. The advantage of each token is multiplied by min(p / q, cap): p is its
probability under the present weights, q that under the weights that sampled it. This is the
decoupled objective of AReaL (https://arxiv.org/abs/2505.24298), with the weights truncated as in
V-trace of IMPALA (https://arxiv.org/abs/1802.01561).

Shapes: N trajectories, T tokens.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from textenv.algos.lm.scoring.batch import TokenBatch

IMPORTANCE = "sampling/importance_weight/"
"""The beginning of the names of the metrics."""


def correct(
    batch: TokenBatch, advantages: np.ndarray, logprobs: np.ndarray, cap: float
) -> tuple[TokenBatch, np.ndarray, dict[str, float]]:
    """Correct a batch, and its advantages, for the weights that have sampled it.

    Args:
        batch: what was sampled.
        advantages: (N,) or (N, T).
        logprobs: (N, T), of the batch's tokens under the present weights; NaN where they are not
            known, which counts as unchanged.
        cap: the largest weight.

    Returns:
        The batch as if the present weights had sampled it, the advantages (N, T), and metrics of
        what is known: the mean of the weights, and the share of tokens whose weight was truncated.
    """
    known = batch.mask * ~np.isnan(logprobs)
    present = np.where(known > 0, logprobs, batch.old_logprobs * batch.mask).astype(np.float32)
    difference = np.where(known > 0, present - batch.old_logprobs, 0.0)
    weights = np.exp(np.minimum(difference, math.log(cap)))  # (N, T)
    tokens = max(1.0, float(known.sum()))
    metrics = {
        f"{IMPORTANCE}mean": float((weights * known).sum()) / tokens,
        f"{IMPORTANCE}truncated": float(((difference > math.log(cap)) * known).sum()) / tokens,
    }
    per_token = advantages if advantages.ndim == 2 else advantages[:, None]
    corrected = (per_token * weights).astype(np.float32)
    return replace(batch, old_logprobs=present), corrected, metrics
