"""Functions on groups that strategies share: outcomes, starting points, and smaller groups."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from dataclasses import replace

import numpy as np

from textenv.algos.episodes.trajectory import Trajectory
from textenv.algos.strategies.protocols import Group, Start

TOLERANCE = 1e-8
"""Outcomes that differ by no more than this count as equal."""


def outcome(trajectory: Trajectory) -> float:
    """The outcome of an episode: 1 or 0 if the task can tell (``is_correct``), else its reward.

    This is the reward of the environment, before any shaping.
    """
    correct = trajectory.is_correct
    return trajectory.total_reward if correct is None else float(correct)


def is_uniform(group: Group, tolerance: float = TOLERANCE) -> bool:
    """Whether a group's outcomes are all equal, so that comparing them teaches nothing."""
    values = np.array([outcome(trajectory) for trajectory in group], np.float64)
    values = values[np.isfinite(values)]
    return len(values) < 2 or bool(values.max() - values.min() <= tolerance)


def by_group(trajectories: Iterable[Trajectory]) -> list[Group]:
    """Trajectories by their ``group_id``; groups are in the order of their first trajectories."""
    groups: dict[int | None, Group] = {}
    for trajectory in trajectories:
        groups.setdefault(trajectory.group_id, []).append(trajectory)
    return list(groups.values())


def start_key(start: Start | Trajectory) -> Hashable:
    """The key of a starting point: the id of its example, or its seed if there is no such id."""
    if isinstance(start, Trajectory):
        found = start.reset_info.get("example_id")
    else:
        found = (start.options or {}).get("example_id")
    return start.seed if found is None else found


def thin(group: Group, keep: Collection[int]) -> Group:
    """Some trajectories of a group, in their order.

    If a parent is left out, the child that shares most with it takes its place in the tree.

    Args:
        group: a group.
        keep: the indices of the trajectories that stay.
    """
    parents = [trajectory.parent for trajectory in group]
    branches = [trajectory.branch_at for trajectory in group]
    left = set(range(len(group)))
    for gone in sorted(left - set(keep)):
        left.remove(gone)
        children = [i for i in sorted(left) if parents[i] == gone]
        if not children:
            continue
        heir = max(children, key=lambda i: branches[i] or 0)
        for child in children:
            parents[child] = heir
        parents[heir] = parents[gone]
        branches[heir] = _least(branches[gone], branches[heir])
    places = {old: new for new, old in enumerate(sorted(keep))}
    return [_moved(group[i], _place(places, parents[i]), branches[i]) for i in places]


def _least(mine: int | None, theirs: int | None) -> int | None:
    return None if mine is None else min(mine, theirs or 0)


def _place(places: dict[int, int], parent: int | None) -> int | None:
    return None if parent is None else places[parent]


def _moved(trajectory: Trajectory, parent: int | None, branch_at: int | None) -> Trajectory:
    if (trajectory.parent, trajectory.branch_at) == (parent, branch_at):
        return trajectory
    return replace(trajectory, parent=parent, branch_at=branch_at)
