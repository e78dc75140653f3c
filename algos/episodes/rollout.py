"""One rollout as it was collected: what is trained on, what was played, and what it took."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from textenv.algos.episodes.trajectory import Buffer, RolloutSource, Trajectory

PREFIX = "strategy/"
"""Begins the names of a strategy's metrics."""


@dataclass
class Counts:
    """How many prompts, groups and tokens a rollout of text took.

    Tokens are those that the policy sampled. A beginning that branches of a tree share counts once.
    """

    rounds: int = 0
    """How often prompts were drawn."""
    groups: int = 0
    """Groups that were played."""
    groups_uniform: int = 0
    """Groups that were played and whose outcomes are all alike: they have no information."""
    groups_missing: int = 0
    """Groups that the rollout was to have and does not have in the end."""
    groups_reused: int = 0
    """Groups of earlier rollouts that are trained on again."""
    prompts_skipped: int = 0
    """Prompts that the strategy passed over."""
    tokens_generated: int = 0
    """Tokens that the policy sampled."""
    tokens_computed: int = 0
    """Tokens that went through the model to sample these: each prompt once a group, each token
    after it once, and the token before a place at which a tree branches once more."""
    tokens_discarded: int = 0
    """Tokens that were generated and are not trained on."""
    tokens_trained: int = 0
    """Tokens with a weight in the loss, those of earlier rollouts included."""

    def metrics(self) -> dict[str, float]:
        """The counts by their names in the metrics of a step, all under ``strategy/``."""
        counted = {name: float(value) for name, value in vars(self).items()}
        uniform = counted.pop("groups_uniform")
        counted["frac_groups_uniform"] = uniform / max(1, self.groups)
        return {PREFIX + name: value for name, value in counted.items()}


class Rollout(Buffer):
    """What `RolloutRunner.collect` gives: a buffer of what is kept, and what it took to get it.

    Args:
        trajectories: what is trained on.
        source: where the trajectories come from, if that is known.
        played: all trajectories that were played; None if that is what is trained on.
        counts: of text, how many groups and tokens it took; None if nobody counted.
        seconds: time spent in the ``"environment"`` and in the ``"policy"``, of all workers
            together.

    Attributes:
        played: all trajectories that were played, also those that a strategy did not keep. Neither
            this nor what follows is written to files or compared, and `clear` leaves it alone.
        counts: as given.
        seconds: as given.
    """

    def __init__(
        self,
        trajectories: Iterable[Trajectory] = (),
        source: RolloutSource | None = None,
        *,
        played: list[Trajectory] | None = None,
        counts: Counts | None = None,
        seconds: dict[str, float] | None = None,
    ):
        super().__init__(trajectories, source)
        self.played = self.trajectories if played is None else played
        self.counts = counts
        self.seconds = seconds or {"environment": 0.0, "policy": 0.0}
