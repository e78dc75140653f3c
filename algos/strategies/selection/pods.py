"""PODS: Xu et al. 2025, "Not All Rollouts are Useful" (arXiv 2504.13818), section 3.

Of the n completions of a prompt, it trains on the m whose rewards have the greatest variance. As
the paper proves, these are always the k highest and the m - k lowest, so all k are tried.

Deviations from the paper: none are known. As there, advantages are computed within the m that are
kept. Rewards are those of the environment, before any shaping.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from textenv.algos.config import check_bounds, check_types
from textenv.algos.strategies.groups import thin
from textenv.algos.strategies.protocols import Group, Selection
from textenv.errors import ConfigError


@dataclass
class MaximumVariance(Selection):
    """Keeps the trajectories of each group whose rewards have the greatest variance.

    Raises:
        ConfigError: for fewer than 2 to keep, or more than a group has.
    """

    name: ClassVar[str] = "pods"

    keep: int = 4
    """Trajectories of a group to train on. Lower it if updates take longer than rollouts."""

    def __post_init__(self) -> None:
        check_types(self)
        check_bounds(self, keep=(2, None))

    def check(self, num_generations: int) -> None:
        """Refuse to keep more trajectories than a group has."""
        if self.keep > num_generations:
            raise ConfigError(f"keep={self.keep} is more than num_generations={num_generations}")

    def select(self, groups: Sequence[Group]) -> list[Group]:
        """All groups, each with at most ``keep`` trajectories."""
        return [self._thin(group) if len(group) > self.keep else group for group in groups]

    def _thin(self, group: Group) -> Group:
        scored = [i for i, t in enumerate(group) if t.is_scored]  # the others teach nothing
        if len(scored) > self.keep:
            varied = most_varied([group[i].total_reward for i in scored], self.keep)
            return thin(group, [scored[i] for i in varied])
        rest = [i for i in range(len(group)) if i not in scored]
        return thin(group, sorted([*scored, *rest[: self.keep - len(scored)]]))


def most_varied(rewards: Sequence[float], count: int) -> list[int]:
    """The indices, ascending, of the ``count`` rewards that have the greatest variance."""
    values = np.asarray(rewards, np.float64)
    order = np.argsort(values, kind="stable")
    values = values[order] - values.mean()
    variances = [
        np.var(np.concatenate([values[: count - k], values[len(values) - k :]]))
        for k in range(count + 1)
    ]
    high = int(np.argmax(variances))
    return sorted([*order[: count - high].tolist(), *order[len(order) - high :].tolist()])
