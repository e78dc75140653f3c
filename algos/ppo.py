"""PPO: updates a policy several times on its own rollout, and bounds how far each update goes.

Schulman et al. 2017, "Proximal Policy Optimization Algorithms" (arXiv 1707.06347), equations 7
and 9. Advantages are by GAE, Schulman et al. 2016 (1506.02438), equation 16. Details are those of
Huang et al. 2022, "The 37 Implementation Details of PPO". The same objective trains two networks
on control (`textenv.algos.trainers.ppo_control`), and a language model, each token of which is a
decision (`textenv.algos.trainers.ppo_text`).

Deviations:
- ``n_steps`` counts all environments together: a rollout has one size, whatever their number.
- The return of a truncated episode includes the value of its last observation (Pardo et al. 2018,
  1712.00378). With ``bootstrap_truncated=False`` it does not, as in the paper.
- Statistics of observations do not change while a rollout is collected. They are updated with it
  after the update of the policy, so that the ratio of the first minibatch is 1.
- The optional third bound of the objective is the dual clip of Ye et al. 2020 (1912.09729), eq. 5.

Shapes: N rows, T tokens of a row (1 for control).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from textenv.algos.episodes.trajectory import Trajectory
from textenv.algos.lm.scoring.batch import BatchSize
from textenv.algos.ppo_config import PPOConfig
from textenv.algos.runtime import backend
from textenv.errors import ConfigError

backend.prepare()

import mlx.core as mx  # noqa: E402


def gae(
    rewards: Sequence[float] | np.ndarray,
    values: Sequence[float] | np.ndarray,
    last_value: float = 0.0,
    gamma: float = 0.99,
    gae_lambda: float = 0.95,
) -> tuple[np.ndarray, np.ndarray]:
    """The advantages of the steps of one trajectory, and its lambda-returns.

    Args:
        rewards: (T,).
        values: (T,), the critic's value of each observation.
        last_value: its value of the observation after the last step; 0 if the episode terminated.
        gamma: the discount of each step.
        gae_lambda: 0 trusts the critic after one step, and 1 trusts the rewards alone.

    Returns:
        Advantages (T,) and returns (T,), float64; the returns are advantages + values.

    Example:
        >>> gae([1, 2, 3], [0.5, 1, 1.5], gamma=1.0, gae_lambda=0.5)[1].tolist()
        [3.625, 4.25, 3.0]
    """
    steps = np.asarray(rewards, np.float64).tolist()
    own = np.asarray(values, np.float64).tolist()
    advantages = [0.0] * len(steps)
    following, advantage = float(last_value), 0.0
    for t in range(len(steps) - 1, -1, -1):
        delta = steps[t] + gamma * following - own[t]
        advantage = delta + gamma * gae_lambda * advantage
        advantages[t] = advantage
        following = own[t]
    return np.array(advantages), np.array(advantages) + np.array(own)


def policy_loss(
    logprobs: mx.array,
    old_logprobs: mx.array,
    advantages: mx.array,
    mask: mx.array,
    *,
    clip_range: float | mx.array = 0.2,
    dual_clip: float | None = None,
    batch_size: BatchSize | None = None,
) -> tuple[mx.array, dict[str, mx.array]]:
    """The loss to minimise: the clipped surrogate, as a mean over the tokens of the mask.

    Args:
        logprobs: (N, T) under the policy that is trained.
        old_logprobs: (N, T) under the policy that sampled.
        advantages: (N,), or (N, T) for single tokens.
        mask: (N, T), 1 for the tokens that count.
        clip_range: how far the ratio may leave 1 before its gradient stops.
        dual_clip: if the advantage is below 0, the loss of a token is at most this times
            -advantage. It must be above 1; None sets no bound.
        batch_size: the size of the whole batch, if this is a part of it.

    Returns:
        The loss, and two metrics over the tokens of the mask: ``approx_kl`` (Schulman 2020, k3)
        and ``clip_fraction``.

    Raises:
        ConfigError: for a ``dual_clip`` of 1 or less.
    """
    if dual_clip is not None and dual_clip <= 1:
        raise ConfigError(f"dual_clip must be above 1, got {dual_clip!r}")
    logprobs, mask = mx.array(logprobs), mx.array(mask)
    advantages = mx.array(advantages).astype(logprobs.dtype)
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    # Padding may hold anything: it must not become inf or NaN, which 0 * x would keep.
    advantages = mx.where(mask > 0, advantages, 0.0)  # (N, T)
    log_ratio = mx.where(mask > 0, logprobs - mx.array(old_logprobs), 0.0)
    ratio = mx.exp(log_ratio)
    clipped = mx.clip(ratio, 1 - clip_range, 1 + clip_range)
    per_token = -mx.minimum(ratio * advantages, clipped * advantages)
    if dual_clip is not None:
        bound = -dual_clip * advantages
        per_token = mx.where(advantages < 0, mx.minimum(per_token, bound), per_token)
    tokens = mx.maximum(mask.sum(), 1)
    whole = tokens if batch_size is None else max(batch_size.tokens, 1)
    outside = mx.abs(ratio - 1) > clip_range
    metrics = {
        "approx_kl": ((ratio - 1 - log_ratio) * mask).sum() / tokens,
        "clip_fraction": (outside * mask).sum() / tokens,
    }
    loss = (per_token * mask).sum() / whole
    return loss, {name: mx.stop_gradient(value) for name, value in metrics.items()}


def value_loss(
    values: mx.array,
    old_values: mx.array,
    returns: mx.array,
    mask: mx.array,
    *,
    clip_range_vf: float | mx.array | None = None,
    batch_size: BatchSize | None = None,
) -> mx.array:
    """The critic's mean squared error over the tokens of the mask; all arrays are (N, T).

    With ``clip_range_vf`` a value is clipped to that distance from the old one, as in
    Stable-Baselines3.
    """
    if clip_range_vf is not None:
        values = old_values + mx.clip(values - old_values, -clip_range_vf, clip_range_vf)
    error = mx.where(mask > 0, returns - values, 0.0)
    whole = mx.maximum(mask.sum(), 1) if batch_size is None else max(batch_size.tokens, 1)
    return (error * error).sum() / whole


def minibatches(config: PPOConfig, rows: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """The rows of each minibatch of an update, shuffled anew each epoch."""
    for _ in range(config.n_epochs):
        shuffled = rng.permutation(rows)
        for start in range(0, rows, config.batch_size):
            yield shuffled[start : start + config.batch_size]


def last_epoch_mean(values: Mapping[int, float], config: PPOConfig, rows: int) -> float:
    """The mean over the last epoch, which is what Stable-Baselines3 shows as ``approx_kl``.

    Args:
        values: a value of each minibatch that was seen, by its number in `minibatches`.
        config: that of the minibatches.
        rows: the number of rows of the update.
    """
    per_epoch = -(-rows // config.batch_size)
    last = max(values, default=0) // per_epoch
    return float(np.mean([v for i, v in values.items() if i // per_epoch == last] or [0.0]))


def bootstrap_value(trajectory: Trajectory, bootstrap_truncated: bool) -> float:
    """The value of what would come after a trajectory's last step; 0 if nothing would come."""
    if trajectory.terminated or (trajectory.truncated and not bootstrap_truncated):
        return 0.0
    if trajectory.last_value is None:
        raise ConfigError("the policy gave no value of the last observation: it has no critic")
    return trajectory.last_value


def explained_variance(values: np.ndarray, returns: np.ndarray) -> float:
    """1 if the values predict the returns exactly, 0 if they are no better than a constant."""
    spread = float(np.var(returns))
    return 0.0 if spread == 0 else 1 - float(np.var(returns - values)) / spread
