"""Replay: trains once more on groups of earlier rollouts that have information.

Fu et al. 2025, "AReaL" (arXiv 2505.24298), section 5.2, the decoupled objective. With pi_then the
policy that sampled a token, and pi_now the policy at the start of the update, it is

    E_then [ pi_now / pi_then * min(r A, clip(r, 1 - eps, 1 + eps) A) ],   r = pi / pi_now,

so that the trust region is around the present policy, and not around an earlier one. The importance
weight is truncated to min(pi_now / pi_then, c), as in IMPACT (Luo et al. 2020, 1912.00167) and in
truncated importance sampling (Yao et al. 2025).

Deviations:
- Rollouts are not generated while the model is trained. So only replayed groups are stale; the
  trajectories of this rollout have a weight of 1 and are not scored again.
- The loss is divided by the sum of the weights. The paper divides by a number of tokens.
- The advantages follow from the rewards of a group, whichever policy wrote it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from textenv.algos.config import check_bounds, check_types
from textenv.algos.episodes.trajectory import Trajectory
from textenv.algos.lm.scoring.batch import make_batch
from textenv.algos.storage.checkpoints.state import load_rng, save_rng
from textenv.algos.storage.checks import check_rollout
from textenv.algos.storage.codec import EncodedOnce, decode_rollout
from textenv.algos.strategies.groups import is_uniform
from textenv.algos.strategies.protocols import Group, Reuse, Setup
from textenv.errors import ConfigError


@dataclass
class Replay(Reuse):
    """Adds groups of earlier rollouts to a rollout."""

    name = "replay"

    share: float = 0.25
    """The most groups that are added, as a share of the groups that a rollout is to have."""
    max_staleness: int = 8
    """A group is not used after more optimizer steps than this."""
    cap: float = 2.0
    """The largest importance weight of a token. A lower one is safer, and more biased."""
    rows: int = 64
    """How many trajectories are scored at once. Lower it if memory runs out."""

    def __post_init__(self) -> None:
        for name in ("share", "cap"):
            value = getattr(self, name)
            if isinstance(value, (int, float)) and not 0 < value < math.inf:
                raise ConfigError(f"{name} must be above 0 and finite, got {value}")
        check_types(self)
        check_bounds(self, max_staleness=(1, None), rows=(1, None))

    def prepare(self, setup: Setup) -> None:
        """Start with an empty store.

        Raises:
            ConfigError: for a policy without a model that can score its tokens.
        """
        if not hasattr(setup.policy, "model"):
            raise ConfigError(
                "replay weighs tokens by a language model's probabilities, and the policy "
                f"{type(setup.policy).__name__} has no model (see create_policy)"
            )
        self._policy = setup.policy
        self._rng = setup.rng(self.name)
        self._most = math.ceil(self.share * setup.num_groups - 1e-9)
        self._store: list[Group] = []  # the oldest first
        self._encode = EncodedOnce()
        self._metrics = {"groups": 0.0}

    def extend(self, groups: Sequence[Group], version: int) -> list[Group]:
        """Add weighted groups from the store, and store the groups of this rollout that teach."""
        self._store = [g for g in self._store if version - _version(g) <= self.max_staleness]
        drawn = min(self._most, len(self._store))
        picked = self._rng.choice(len(self._store), drawn, replace=False) if drawn else ()
        replayed = [self._store[i] for i in picked]
        self._store += [g for g in groups if _version(g) == version and not is_uniform(g)]
        self._metrics = {"groups": float(len(replayed))}
        if not replayed:
            return list(groups)
        weighed = self._weigh(replayed)
        weights = [w for g in weighed for t in g for w in t.token_weights or ()]
        self._metrics["staleness"] = float(np.mean([version - _version(g) for g in replayed]))
        self._metrics["weight_mean"] = float(np.mean(weights))
        return [*groups, *weighed]

    def _weigh(self, groups: Sequence[Group]) -> list[Group]:
        """Copies with the present policy's log-probabilities and with importance weights."""
        rows = [trajectory for group in groups for trajectory in group]
        now = iter(self._score(rows))
        # No group of a rollout may have the same number, so these are counted down from -1.
        return [
            [_weighted(t, next(now), self.cap, -1 - number) for t in group]
            for number, group in enumerate(groups)
        ]

    def _score(self, trajectories: list[Trajectory]) -> list[np.ndarray]:
        """The log-probabilities of each one's tokens under the present policy."""
        from textenv.algos.lm.scoring.scorer import Scorer, by_parts  # imports mlx

        batch = make_batch(trajectories)
        scorer = Scorer(self._policy.model)
        logprobs = by_parts(lambda part: scorer(part)[0], batch, self.rows)  # (N, T)
        scored: list[Any] = [None] * len(trajectories)
        for row, place in enumerate(batch.order):
            scored[place] = logprobs[row]
        return scored

    def metrics(self) -> dict[str, float]:
        """Groups that were added, their mean age in optimizer steps, and the mean weight."""
        return dict(self._metrics)

    def state(self) -> dict[str, Any]:
        """The generator's state, and the groups in the store."""
        return {
            "rng": save_rng(self._rng),
            "groups": self._encode(self._store),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        load_rng(self._rng, state["rng"])
        groups = [decode_rollout(rows, None, "the replay store") for rows in state["groups"]]
        for group in groups:
            check_rollout(group, "the replay store")
        self._store = [group.trajectories for group in groups]


def importance_weights(now: np.ndarray, then: np.ndarray, cap: float) -> np.ndarray:
    """min(pi_now / pi_then, cap) of each token, of log-probabilities (T,)."""
    return np.exp(np.minimum(now - then, math.log(cap)))


def _version(group: Group) -> int:
    return group[0].policy_version or 0


def _weighted(trajectory: Trajectory, now: np.ndarray, cap: float, group_id: int) -> Trajectory:
    mask = np.array(trajectory.token_mask, bool)  # (T,)
    then = np.array(trajectory.token_logprobs, np.float64)
    now = np.where(mask, now[: len(mask)].astype(np.float64), 0.0)
    weights = np.where(mask, importance_weights(now, then, cap), 1.0)
    if trajectory.token_weights is not None:
        weights *= trajectory.token_weights
    return replace(
        trajectory,
        token_logprobs=now.tolist(),
        token_weights=weights.tolist(),
        group_id=group_id,
    )
