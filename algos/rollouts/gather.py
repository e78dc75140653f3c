"""Collecting one rollout of text by a strategy: choose, play, select, until it is full."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from textenv.algos.episodes.rollout import Counts, Rollout
from textenv.algos.episodes.trajectory import Trajectory
from textenv.algos.strategies.counts import count_kept, count_round
from textenv.algos.strategies.groups import by_group
from textenv.algos.strategies.protocols import Group, Start
from textenv.algos.strategies.strategy import Strategy


def gather(
    strategy: Strategy,
    plan: Callable[[int], list[Start]],
    play: Callable[[list[Start]], Iterable[Trajectory]],
    wanted: int,
    version: int,
) -> Rollout:
    """Collect one rollout of text.

    Args:
        strategy: whose parts decide.
        plan: gives the starts of so many groups, chosen by the strategy's prompts.
        play: plays whole groups, here or in workers.
        wanted: how many groups the rollout is to have.
        version: how many optimizer steps have changed the policy.

    Returns:
        What to train on, with what was played and the counts. It may hold fewer groups than
        wanted, and none.

    Raises:
        RolloutError: if the strategy is told to stop when groups are missing.
    """
    kept: list[Group] = []
    played: list[Trajectory] = []
    counts = Counts()
    skipped = strategy.prompts.skipped
    while len(kept) < wanted and counts.rounds < strategy.rounds:
        groups = by_group(play(plan(wanted - len(kept))))
        played += [trajectory for group in groups for trajectory in group]
        strategy.prompts.observe(groups)
        count_round(counts, groups)
        for selection in strategy.selection:
            groups = selection.select(groups)
        kept += groups
    for selection in strategy.selection:
        selection.end(len(kept), wanted, counts.rounds)
    trained = kept
    for reuse in strategy.reuse:
        trained = reuse.extend(trained, version)
    counts.prompts_skipped = strategy.prompts.skipped - skipped
    count_kept(counts, wanted, kept, trained)
    return Rollout((t for group in trained for t in group), played=played, counts=counts)
