"""GRPO: samples groups of completions, compares them by reward, and makes the better ones likelier.

Shao et al. 2024, "DeepSeekMath" (arXiv 2402.03300), section 4. The loss can also be aggregated as
in Dr. GRPO (Liu et al. 2025, 2503.20783), DAPO (Yu et al. 2025, 2503.14476) and TRL's BNPO, or have
the clipped importance weights of CISPO (MiniMax-M1, 2506.13585).

Deviations from the papers:
- The standard deviation has ddof 1 and eps 1e-4, as in TRL. The paper does not say.
- A group is uniform if max - min <= tolerance, not if its standard deviation is exactly 0.
- The old log-probabilities are the sampler's own, of the distribution that was sampled from.
- Every loss is normalised over an optimizer step's whole batch. So bnpo, which TRL normalises over
  a part of the batch, equals dapo.
- CISPO bounds its weight by 1 + epsilon_high from above, as MiniMax-M1 does, and not from below.
  TRL's epsilon_high is that bound itself.
- The KL term is the paper's k3. ``use_bias_correction_kl`` multiplies it by the ratio, as TRL 1.16
  does by default (DeepSeek-V3.2, 2512.02556).

Shapes: N trajectories, T tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from textenv.algos.grpo_config import LOSS_TYPES, SCALES
from textenv.algos.lm.scoring.batch import BatchSize
from textenv.algos.runtime import backend
from textenv.errors import ConfigError, unknown

backend.prepare()

import mlx.core as mx  # noqa: E402


def compute_advantages(
    rewards: Any,
    group_ids: Any,
    *,
    scale_rewards: str = "group",
    eps: float = 1e-4,
    tolerance: float = 1e-8,
) -> np.ndarray:
    """The advantages of trajectories: their rewards relative to those of their group.

    Args:
        rewards: (N,); NaN marks a trajectory that no reward function scored.
        group_ids: (N,), equal for trajectories of one group.
        scale_rewards: divide by the standard deviation of the ``"group"`` or of the ``"batch"``,
            or not at all (``"none"``, as Dr. GRPO advises).
        eps: added to the standard deviation.
        tolerance: a group whose rewards differ by no more than this has no information.

    Returns:
        (N,) float64; 0 for groups without information and trajectories without a reward.

    Raises:
        ConfigError: for an unknown ``scale_rewards``.
    """
    if scale_rewards not in SCALES:
        raise ConfigError(unknown("scale_rewards", scale_rewards, SCALES))
    rewards = np.asarray(rewards, np.float64)
    group_ids = np.asarray(group_ids)
    advantages = np.zeros_like(rewards)
    scored = np.isfinite(rewards)
    batch_std = np.std(rewards[scored], ddof=1) if scored.sum() > 1 else 0.0
    for group in np.unique(group_ids):
        members = scored & (group_ids == group)
        own = rewards[members]
        if len(own) < 2 or own.max() - own.min() <= tolerance:
            continue
        centred = own - own.mean()
        if scale_rewards == "group":
            centred /= own.std(ddof=1) + eps
        elif scale_rewards == "batch":
            centred /= batch_std + eps
        advantages[members] = centred
    return advantages


def policy_loss(
    logprobs: mx.array,
    old_logprobs: mx.array,
    advantages: mx.array,
    mask: mx.array,
    *,
    loss_type: str = "dapo",
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    beta: float = 0.0,
    use_bias_correction_kl: bool = False,
    ref_logprobs: mx.array | None = None,
    max_completion_length: int | None = None,
    batch_size: BatchSize | None = None,
    weights: mx.array | None = None,
) -> tuple[mx.array, dict[str, mx.array]]:
    """The loss to minimise.

    Args:
        logprobs: (N, T) under the policy that is trained.
        old_logprobs: (N, T) under the policy that sampled.
        advantages: (N,), or (N, T) for single tokens.
        mask: (N, T), 1 for the tokens that count.
        loss_type: one of `LOSS_TYPES`.
        epsilon: how far the ratio may fall below 1 before its gradient stops.
        epsilon_high: how far the ratio may rise above 1; None: ``epsilon``.
        beta: weight of the KL penalty to the reference policy (k3 estimator, Schulman 2020). On
            average its gradient is that of KL(reference || policy).
        use_bias_correction_kl: multiply the KL term by the ratio, so that on average its gradient
            is that of KL(policy || reference), off-policy too.
        ref_logprobs: (N, T) under the reference policy; needed if ``beta`` is above 0.
        max_completion_length: the constant that ``dr_grpo`` divides by.
        batch_size: the size of the whole batch, if this is a part of it.
        weights: (N, T), the weight of each token of the mask; None: 1. Means over tokens divide by
            the sum of the weights, those over a completion's tokens by the sum of its own;
            ``dr_grpo`` divides by its constant. The ratio of ``gspo``, a mean over a completion's
            tokens, does not use weights.

    Returns:
        The loss, and metrics over the tokens of the mask, each of which counts 1 there. Those of
        clipping are over completions for ``gspo``, and of the upper bound alone for ``cispo``.

    Raises:
        ConfigError: for an unknown loss type, or if an argument is missing that it needs.
    """
    if loss_type not in LOSS_TYPES:
        raise ConfigError(unknown("loss_type", loss_type, LOSS_TYPES))
    logprobs, mask = mx.array(logprobs), mx.array(mask)
    advantages = mx.array(advantages).astype(logprobs.dtype)
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    high = epsilon if epsilon_high is None else epsilon_high
    lengths = mx.maximum(mask.sum(axis=1), 1)  # (N,)
    # Padding may hold anything: it must not become inf or NaN, which 0 * x would keep.
    advantages = mx.where(mask > 0, advantages, 0.0)  # (N, T)
    log_ratio = mx.where(mask > 0, logprobs - mx.array(old_logprobs), 0.0)
    if loss_type == "gspo":
        mean = (log_ratio * mask).sum(axis=1) / lengths  # (N,), GSPO's equation 7
        log_ratio = mx.broadcast_to(mean[:, None], log_ratio.shape)
    ratio = mx.exp(log_ratio)  # (N, T)

    if loss_type == "cispo":
        weight = mx.stop_gradient(mx.minimum(ratio, 1 + high))
        per_token = -weight * advantages * mx.where(mask > 0, logprobs, 0.0)
    else:
        clipped = mx.clip(ratio, 1 - epsilon, 1 + high)
        per_token = -mx.minimum(ratio * advantages, clipped * advantages)
    tokens = mx.maximum(mask.sum(), 1)
    metrics = _clip_metrics(ratio, advantages, mask, epsilon, high, loss_type)
    if beta:
        if ref_logprobs is None:
            raise ConfigError(f"beta={beta} needs ref_logprobs, those of the reference policy")
        difference = mx.where(mask > 0, mx.array(ref_logprobs) - logprobs, 0.0)
        kl = mx.exp(difference) - difference - 1
        if use_bias_correction_kl:
            kl = ratio * kl
        per_token = per_token + beta * kl
        metrics["kl"] = (kl * mask).sum() / tokens

    if weights is not None:
        mask = mx.array(weights) * (mask > 0)
        sums = mask.sum(axis=1)
        lengths = mx.where(sums > 0, sums, 1)
        tokens = mx.where(sums.sum() > 0, sums.sum(), 1)
    sequences, all_tokens = batch_size or (mask.shape[0], None)
    if loss_type in ("grpo", "gspo"):
        loss = ((per_token * mask).sum(axis=1) / lengths).sum() / sequences
    elif loss_type == "dr_grpo":
        if max_completion_length is None:
            raise ConfigError(
                "loss_type='dr_grpo' needs max_completion_length, the constant it divides by"
            )
        loss = (per_token * mask).sum() / (sequences * max_completion_length)
    else:
        loss = (per_token * mask).sum() / (all_tokens or tokens)
    return loss, {name: mx.stop_gradient(value) for name, value in metrics.items()}


def _clip_metrics(
    ratio: mx.array, advantages: mx.array, mask: mx.array, low: float, high: float, loss_type: str
) -> dict[str, mx.array]:
    """The shares of tokens (of completions for ``gspo``) whose ratio a bound stopped."""
    own = (mask > 0).astype(ratio.dtype)
    if loss_type == "gspo":  # every token of a completion has its ratio and its advantage
        own = own / mx.maximum(own.sum(axis=1, keepdims=True), 1)
    count = mx.maximum(own.sum(), 1)
    below = (ratio < 1 - low) & (advantages < 0)
    if loss_type == "cispo":  # nothing bounds its weight from below
        below = mx.zeros_like(below)
    above = (ratio > 1 + high) & (advantages > 0)
    return {
        "clip_ratio/low_mean": (below * own).sum() / count,
        "clip_ratio/high_mean": (above * own).sum() / count,
        "clip_ratio/region_mean": ((below | above) * own).sum() / count,
    }
