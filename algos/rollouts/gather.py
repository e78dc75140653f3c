"""One rollout by a strategy: choose, play, learn from it, select, until it is full; then reuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from textenv.algos.episodes.trajectory import Buffer, Trajectory
from textenv.algos.strategies.counts import Counts
from textenv.algos.strategies.groups import by_group
from textenv.algos.strategies.protocols import Group, Start

if TYPE_CHECKING:
    from textenv.algos.strategies.strategy import Strategy


def gather(
    strategy: Strategy,
    plan: Callable[[int], list[Start]],
    play: Callable[[list[Start]], list[Trajectory]],
    wanted: int,
    version: int,
) -> Buffer:
    """Collect one rollout of text.

    Args:
        strategy: whose parts decide.
        plan: where the episodes of so many groups start, by the strategy's prompts.
        play: plays whole groups, here or in workers.
        wanted: groups that the rollout is to have.
        version: optimizer steps that the policy has behind it.

    Returns:
        What to train on, with ``counts``. It may hold fewer groups than wanted, and none.

    Raises:
        RolloutError: where the strategy is told to stop when groups are missing.
    """
    kept: list[Group] = []
    counts = Counts()
    skipped = strategy.prompts.skipped
    while len(kept) < wanted and counts.rounds < strategy.rounds:
        groups = by_group(play(plan(wanted - len(kept))))
        strategy.prompts.observe(groups)
        counts.add_round(groups)
        for selection in strategy.selection:
            groups = selection.select(groups)
        kept += groups
    for selection in strategy.selection:
        selection.end(len(kept), wanted, counts.rounds)
    trained = kept
    for reuse in strategy.reuse:
        trained = reuse.extend(trained, version)
    counts.prompts_skipped = strategy.prompts.skipped - skipped
    counts.finish(wanted, kept, trained)
    return Buffer((t for group in trained for t in group), counts=counts)
