"""Trains only on the tokens of highest entropy.

Wang et al. 2025, "Beyond the 80/20 Rule" (arXiv 2506.01939), section 5. Of all tokens of a batch,
only those whose entropy is in the top share have a gradient: the places where a text can go on in
different ways.

Deviations from the paper:
- The entropies are those that the policy recorded when it sampled, of the distribution that it
  sampled from (temperature and top-p included). The paper computes them again in the update.
- The loss is a mean over the tokens that count. In the paper the denominator has the other tokens
  too, so the gradient here is larger by 1 / share.
- The share is one of the tokens that have an advantage. The paper samples until all groups have
  advantages.
- Tokens of a beginning that branches of a tree share count once.

Tokens of equal entropy are all taken or all left out. To include replayed groups, name this part
after ``replay``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from textenv.algos.config import check_types
from textenv.algos.episodes.trajectory import Trajectory
from textenv.algos.strategies.groups import TOLERANCE
from textenv.algos.strategies.protocols import Group, Reuse
from textenv.errors import ConfigError, DataError


@dataclass
class TopEntropy(Reuse):
    """Gives all but the tokens of highest entropy a weight of 0."""

    name = "top_entropy"

    share: float = 0.2
    """Share of the tokens that are trained on. 1 takes all."""

    def __post_init__(self) -> None:
        check_types(self)
        self._threshold = 0.0
        if not 0 < self.share <= 1:
            raise ConfigError(f"share must be above 0 and at most 1, got {self.share}")

    def extend(self, groups: Sequence[Group], version: int) -> list[Group]:
        """The same groups, with a weight of 1 or 0 for each token.

        Raises:
            DataError: for a trajectory without entropies.
        """
        teaching = [group for group in groups if _has_signal(group)] or groups
        entropies = [_entropies(t)[t.own_from :] for group in teaching for t in group]
        own = np.concatenate(entropies) if entropies else np.zeros(0)
        own = np.sort(own[np.isfinite(own)])
        if not len(own):
            return list(groups)
        count = math.ceil(self.share * len(own) - 1e-9)
        self._threshold = float(own[-count])
        return [[self._weighted(trajectory) for trajectory in group] for group in groups]

    def _weighted(self, trajectory: Trajectory) -> Trajectory:
        weights = (_entropies(trajectory) >= self._threshold).astype(np.float64)
        if trajectory.token_weights is not None:
            weights *= trajectory.token_weights
        return replace(trajectory, token_weights=weights.tolist())

    def metrics(self) -> dict[str, float]:
        """The least entropy, in nats, of a token that counts."""
        return {"threshold": self._threshold}


def _has_signal(group: Group) -> bool:
    """Whether any token of a group has an advantage."""
    if any(any(t.token_advantages or ()) for t in group):
        return True
    rewards = np.array([t.total_reward + (t.shaping or 0.0) for t in group], np.float64)
    rewards = rewards[np.isfinite(rewards)]
    return len(rewards) > 1 and bool(rewards.max() - rewards.min() > TOLERANCE)


def _entropies(trajectory: Trajectory) -> np.ndarray:
    """The entropy of each token (T,); -inf if the policy did not choose the token."""
    if trajectory.token_entropies is None or trajectory.token_mask is None:
        raise DataError(
            "top_entropy needs the entropies of the tokens, and a trajectory has none: a language "
            "model's policy records them (see create_policy)"
        )
    chosen = np.array(trajectory.token_mask, bool)
    return np.where(chosen, np.array(trajectory.token_entropies, np.float64), -np.inf)
