"""A collected rollout: what is trained on, what was played, and how many tokens it took."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from textenv.algos.episodes.trajectory import Buffer, RolloutSource, Trajectory

PREFIX = "strategy/"
"""The beginning of the names of a strategy's metrics."""


@dataclass
class Counts:
    """How many prompts, groups and tokens a rollout of text took.

    Tokens are those that the policy sampled. A beginning that branches of a tree share counts once.
    """

    rounds: int = 0
    """In how many rounds prompts were drawn."""
    groups: int = 0
    """Groups that were played."""
    groups_uniform: int = 0
    """Played groups whose outcomes are all equal, which therefore have no information."""
    groups_missing: int = 0
    """How many groups fewer the rollout has than it was to have."""
    groups_reused: int = 0
    """Groups of earlier rollouts that are trained on again."""
    prompts_skipped: int = 0
    """Prompts that the strategy passed over."""
    tokens_generated: int = 0
    """Tokens that the policy sampled."""
    tokens_computed: int = 0
    """Tokens that went through the model for this: each prompt once for its group, each token after
    it once, and the token before a place at which a tree branches once more."""
    tokens_discarded: int = 0
    """Tokens that were generated and are not trained on."""
    tokens_trained: int = 0
    """Tokens with a weight in the loss, those of earlier rollouts included."""

    def metrics(self) -> dict[str, float]:
        """The counts as metrics of a step, all under ``strategy/``."""
        counted = {name: float(value) for name, value in vars(self).items()}
        uniform = counted.pop("groups_uniform")
        counted["frac_groups_uniform"] = uniform / max(1, self.groups)
        return {PREFIX + name: value for name, value in counted.items()}


class Rollout(Buffer):
    """What `RolloutRunner.collect` gives: a buffer of what is trained on, and how it came about.

    Args:
        trajectories: the trajectories to train on.
        source: where the trajectories come from, if that is known.
        played: all trajectories that were played; None if all of them are trained on.
        counts: for text, how many groups and tokens it took; None if they were not counted.
        seconds: time spent in the ``"environment"`` and in the ``"policy"``, of all workers
            together.

    Attributes:
        played: all trajectories that were played, also those that a strategy did not keep. Files
            and comparisons do not include this or the following attributes, and `clear` does not
            change them.
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
