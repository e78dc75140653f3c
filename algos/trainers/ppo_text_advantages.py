"""The rewards and the advantages of the tokens of text, for PPO.

Shapes: N trajectories, T tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from textenv.algos.episodes.trajectory import Trajectory
from textenv.algos.lm.scoring.batch import TokenBatch
from textenv.algos.ppo import gae
from textenv.errors import DataError

_EPSILON = 1e-8
_TOLERANCE = 1e-6  # advantages that differ by less are the rounding of float32 values


def turn_rewards(trajectories: Sequence[Trajectory], batch: TokenBatch) -> np.ndarray:
    """The reward of each turn on the last token that the policy wrote in it, (N, T) float64.

    Args:
        trajectories: in the order of the rows of the batch.
        batch: the batch that was made of them.

    Raises:
        DataError: if a trajectory's tokens do not fall into as many turns as it has rewards.
    """
    rewards = np.zeros(batch.token_ids.shape)
    for row, trajectory in zip(rewards, trajectories):
        own = np.array([*(trajectory.token_mask or ()), 0])
        ends = np.flatnonzero((own[:-1] == 1) & (own[1:] == 0))
        if len(ends) != len(trajectory.rewards):
            raise DataError(
                f"a trajectory has the rewards of {len(trajectory.rewards)} turn(s), and its "
                f"tokens fall into {len(ends)}: the environment must say something between two "
                "turns, or PPO cannot tell which token a reward is for"
            )
        row[ends] = trajectory.rewards
    return rewards


def token_advantages(
    rewards: np.ndarray, values: np.ndarray, mask: np.ndarray, gamma: float, gae_lambda: float
) -> np.ndarray:
    """GAE from each token of the mask to the next; arrays are (N, T), float64, 0 off the mask."""
    advantages = np.zeros(rewards.shape)
    for i, own in enumerate(mask > 0):
        advantages[i, own], _ = gae(
            rewards[i, own], values[i, own], gamma=gamma, gae_lambda=gae_lambda
        )
    return advantages


def whiten(advantages: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Advantages with mean 0 and deviation 1 over the mask's tokens; 0 if all are equal."""
    own = mask > 0
    out = np.zeros_like(advantages)
    if own.sum() > 1 and np.ptp(advantages[own]) > _TOLERANCE:
        centred = advantages[own] - advantages[own].mean()
        out[own] = centred / (centred.std(ddof=1) + _EPSILON)
    return out
