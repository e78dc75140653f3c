"""What a rollout took: tokens generated, discarded and trained on, prompts and groups.

Tokens are those that the policy sampled; a beginning that branches of a tree share counts once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from textenv.algos.episodes.trajectory import Trajectory
from textenv.algos.strategies.groups import is_uniform, own_from, policy_tokens
from textenv.algos.strategies.protocols import Group

_PREFIX = "strategy/"


@dataclass
class Counts:
    """Of one rollout."""

    rounds: int = 0
    """How often prompts were drawn."""
    groups: int = 0
    """That were played."""
    groups_uniform: int = 0
    """Of these, without information: all outcomes alike."""
    groups_missing: int = 0
    """That the rollout lacks in the end."""
    groups_reused: int = 0
    """Of earlier rollouts."""
    prompts_skipped: int = 0
    """That the strategy passed over."""
    tokens_generated: int = 0
    tokens_computed: int = 0
    """That went through the model for it: each prompt once a group, each token after it once, and
    the one before a place where a tree branches once more."""
    tokens_discarded: int = 0
    """Generated, and not trained on."""
    tokens_trained: int = 0
    """With a weight in the loss, those of earlier rollouts included."""
    played: list[Trajectory] = field(default_factory=list, repr=False)
    """All that was played, what was not kept included."""

    def add_round(self, groups: Sequence[Group]) -> None:
        """Count what was played in one round."""
        self.rounds += 1
        self.groups += len(groups)
        self.groups_uniform += sum(map(is_uniform, groups))
        for group in groups:
            self.tokens_generated += policy_tokens(group)
            self.tokens_computed += len(group[0].prompt_ids or ())
            self.tokens_computed += sum(len((t.token_ids or ())[own_from(t) :]) for t in group)
            self.tokens_computed += len({(t.parent, t.branch_at) for t in group if t.branch_at})
            self.played += group

    def finish(self, wanted: int, kept: Sequence[Group], trained: Sequence[Group]) -> None:
        """Count what came of it.

        Args:
            wanted: groups that the rollout was to have.
            kept: what the selection has left.
            trained: that, and what is reused.
        """
        fresh = {t.group_id for group in kept for t in group}
        own = [group for group in trained if group[0].group_id in fresh]
        self.groups_missing = max(0, wanted - len(kept))
        self.groups_reused = len(trained) - len(own)
        self.tokens_trained = sum(map(_weighted, trained))
        self.tokens_discarded = self.tokens_generated - sum(map(_weighted, own))

    def metrics(self) -> dict[str, float]:
        """By their names in the metrics of a step."""
        counted = {
            name: float(value)
            for name, value in vars(self).items()
            if name not in ("played", "groups_uniform")
        }
        counted["frac_groups_uniform"] = self.groups_uniform / max(1, self.groups)
        return {_PREFIX + name: value for name, value in counted.items()}


def summarize(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of a whole run: sums, and the share of groups without information among all groups."""
    rows = [row for row in history if _PREFIX + "groups" in row]
    counted = Counts().metrics()  # and not what parts tell of themselves
    names = [name for name in (rows[0] if rows else ()) if name in counted]
    total = {name.removeprefix(_PREFIX): sum(row[name] for row in rows) for name in names}
    if total:
        share = "frac_groups_uniform"
        uniform = sum(row[_PREFIX + share] * row[_PREFIX + "groups"] for row in rows)
        total[share] = uniform / max(1, total["groups"])
    return total


def _weighted(group: Group) -> int:
    """Tokens of a group that have a weight in the loss."""
    total = 0
    for t in group:
        if t.token_weights is None:
            total += policy_tokens([t])
        else:
            first = own_from(t)
            pairs = zip((t.token_mask or ())[first:], t.token_weights[first:])
            total += sum(1 for chosen, weight in pairs if chosen and weight)
    return total
