"""What trees of one turn or many have in common: chains, then rounds of branches.

A group's leaves are numbered in the order in which they begin: its M chains, then the branches
round by round, tree by tree. Leaf i is played from the group's i-th start and with its noise, so
that it depends on its place in the tree alone, and a tree without branches is the same chains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from gymnasium.vector import VectorEnv

from textenv.algos.config import check_bounds, check_types
from textenv.algos.strategies.protocols import Generation, Setup
from textenv.algos.trajectory import Trajectory
from textenv.errors import ConfigError


class Branch(NamedTuple):
    """Where a leaf comes from."""

    parent: int | None
    """Index in the group of the leaf that it goes on from; None for a chain."""
    at: int
    """What it shares with its parent: tokens, or turns."""


@dataclass
class Branching(Generation):
    """M chains of each prompt, then L rounds in which each of these trees branches.

    A group has ``chains * (1 + rounds * branches * copies)`` leaves.
    """

    chains: int | None = None
    """M, chains to begin with; unset: as many as make ``num_generations`` leaves."""
    rounds: int = 1
    """L, how often trees branch. More for branches of branches; 0 for chains alone."""
    branches: int = 3
    """N, places of a tree at which it branches in a round."""
    copies: int = 1
    """T, branches from each such place."""
    _size: int = field(default=0, init=False, repr=False)
    _first: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        check_types(self)
        check_bounds(self, chains=(1, None), rounds=(0, None), branches=(1, None), copies=(1, None))

    def check(self, num_generations: int) -> None:
        """Refuse settings that do not come to as many leaves."""
        each = 1 + self.rounds * self.branches * self.copies
        chains = num_generations // each if self.chains is None else self.chains
        if chains * each != num_generations or not chains:
            raise ConfigError(
                f"chains * (1 + rounds * branches * copies) = {chains or 1} * (1 + {self.rounds} * "
                f"{self.branches} * {self.copies}) = {(chains or 1) * each} leaves a prompt, and "
                f"num_generations={num_generations}: {self._advice(num_generations)}"
            )
        self._size, self._first = num_generations, chains

    def _advice(self, size: int) -> str:
        """Settings that would do."""
        fitting = [
            f"chains={size // (1 + self.rounds * n * self.copies)},branches={n}"
            for n in range(1, size)
            if size % (1 + self.rounds * n * self.copies) == 0
        ]
        each = 1 + self.rounds * self.branches * self.copies
        near = f"num_generations={max(each, size // each * each)} would do"
        return f"{' or '.join(fitting)} would do" if self.rounds and fitting else near

    def prepare(self, setup: Setup) -> None:
        """Refuse what cannot be played as a tree."""
        check_setup(setup)


def check_setup(setup: Setup) -> None:
    """Refuse what cannot be played as a tree.

    Raises:
        ConfigError: for a policy that cannot go on from a beginning, or an environment that cannot
            be copied.
    """
    from textenv.algos.rollout import declared

    wanted = ("context", "seeds", "branches", "begun", "limits")
    missing = [name for name in wanted if name not in declared(setup.policy, wanted)]
    if missing:
        raise ConfigError(
            f"branches go on from the beginning of an answer, and the policy "
            f"{type(setup.policy).__name__} takes no {', '.join(missing)} (see create_policy)"
        )
    vector = isinstance(getattr(setup.env, "env", None), VectorEnv)
    if vector or getattr(setup.env, "spec", None) is None:
        raise ConfigError(
            "each branch is played in a copy of the environment, which is made from its spec: use "
            "a single environment from gymnasium.make"
        )


def planted(trajectories: Sequence[Trajectory], tree: Sequence[Branch]) -> list[Trajectory]:
    """Trajectories that know where in the tree they are.

    Args:
        trajectories: whole groups of leaves.
        tree: of all of them: the parent's index in its group, and how many tokens are shared.
    """
    return [
        t if place.parent is None else replace(t, parent=place.parent, branch_at=place.at)
        for t, place in zip(trajectories, tree)
    ]


def best_places(scores: Sequence[tuple[float, int, int]], count: int) -> list[tuple[int, int]]:
    """The (leaf, place) of the highest scores; again from the first where there are too few.

    Args:
        scores: of each place: score, leaf, place. Of equal ones the first is taken.
        count: how many are wanted.
    """
    order = np.argsort([-score for score, _, _ in scores], kind="stable")
    return [scores[order[i % len(order)]][1:] for i in range(count)]
