"""Counts what a rollout of text took: its groups, and the tokens generated and trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from textenv.algos.episodes.rollout import PREFIX, Counts
from textenv.algos.episodes.trajectory import policy_tokens
from textenv.algos.strategies.groups import is_uniform
from textenv.algos.strategies.protocols import Group


def count_round(counts: Counts, groups: Sequence[Group]) -> None:
    """Add the groups that were played in one round."""
    counts.rounds += 1
    counts.groups += len(groups)
    counts.groups_uniform += sum(map(is_uniform, groups))
    for group in groups:
        counts.tokens_generated += policy_tokens(group)
        counts.tokens_computed += len(group[0].prompt_ids or ())
        counts.tokens_computed += sum(len((t.token_ids or ())[t.own_from :]) for t in group)
        counts.tokens_computed += len({(t.parent, t.branch_at) for t in group if t.branch_at})


def count_kept(
    counts: Counts, wanted: int, kept: Sequence[Group], trained: Sequence[Group]
) -> None:
    """Add what the rollout holds in the end.

    Args:
        counts: the counts of all rounds, which are added to.
        wanted: how many groups the rollout was to have.
        kept: the groups that the selection kept.
        trained: the groups to train on: those that were kept, and those that are reused.
    """
    fresh = {t.group_id for group in kept for t in group}
    own = [group for group in trained if group[0].group_id in fresh]
    counts.groups_missing = max(0, wanted - len(kept))
    counts.groups_reused = len(trained) - len(own)
    counts.tokens_trained = sum(map(_weighted, trained))
    counts.tokens_discarded = counts.tokens_generated - sum(map(_weighted, own))


def summarize(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The counts of a whole run: their sums, and the share of groups without information.

    Args:
        history: the metrics of each step.
    """
    rows = [row for row in history if PREFIX + "groups" in row]
    counted = Counts().metrics()  # names only the counts, and no metrics of parts
    names = [name for name in (rows[0] if rows else ()) if name in counted]
    total = {name.removeprefix(PREFIX): sum(row[name] for row in rows) for name in names}
    if total:
        share = "frac_groups_uniform"
        uniform = sum(row[PREFIX + share] * row[PREFIX + "groups"] for row in rows)
        total[share] = uniform / max(1, total["groups"])
    return total


def _weighted(group: Group) -> int:
    """How many tokens of a group have a weight in the loss."""
    total = 0
    for t in group:
        if t.token_weights is None:
            total += policy_tokens([t])
        else:
            pairs = zip((t.token_mask or ())[t.own_from :], t.token_weights[t.own_from :])
            total += sum(1 for chosen, weight in pairs if chosen and weight)
    return total
