"""The base of parts that play trees, within one turn or over many: chains, then branches.

A group's leaves are numbered in the order in which they begin: its M chains, then the branches
round by round, tree by tree. Leaf i is played from the group's i-th start and with the noise of
that start. So a leaf depends on its place in the tree alone, and a tree without branches is the
same as the chains.

In training a token that several leaves share counts once, as a token of the leaf that had it first.
So the loss ``grpo`` takes the mean over each leaf's own tokens, then over leaves. ``dr_grpo``
divides by its constant, and the others by all tokens. ``gspo`` is refused, since it has one ratio
for a whole completion, and the nodes of a completion have different advantages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import VectorEnv

from textenv.algos.config import check_bounds, check_types
from textenv.algos.episodes.episode import Lane
from textenv.algos.episodes.policy_call import declared
from textenv.algos.episodes.trajectory import Trajectory
from textenv.algos.lm.generation.completions import Completion
from textenv.algos.strategies.protocols import Answers, EpisodePlayer, Generation, Setup, Start
from textenv.errors import ConfigError


class Branch(NamedTuple):
    """The place in a tree from which a leaf goes on."""

    parent: int | None
    """Index in the group of the leaf that it branches from; None for a chain."""
    at: int
    """How many tokens, or turns, it shares with its parent."""


@dataclass
class Branching(Generation):
    """M chains of each prompt, then L rounds in which each of these trees branches.

    A group has ``chains * (1 + rounds * branches * copies)`` leaves.
    """

    chains: int | None = None
    """M, the chains at the start; unset: as many as make ``num_generations`` leaves."""
    rounds: int = 1
    """L, the rounds in which trees branch. More make branches of branches; 0 plays chains alone."""
    branches: int = 3
    """N, the places at which a tree branches in each round."""
    copies: int = 1
    """T, the branches from each of these places."""
    _size: int = field(default=0, init=False, repr=False)
    _first: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        check_types(self)
        check_bounds(self, chains=(1, None), rounds=(0, None), branches=(1, None), copies=(1, None))

    @property
    def has_trees(self) -> bool:
        """Whether there are rounds of branches; without them there are chains alone."""
        return self.rounds > 0

    def check(self, num_generations: int) -> None:
        """Refuse settings that do not make ``num_generations`` leaves."""
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
        """Settings that would fit, for a message."""
        fitting = [
            f"chains={size // (1 + self.rounds * n * self.copies)},branches={n}"
            for n in range(1, size)
            if size % (1 + self.rounds * n * self.copies) == 0
        ]
        each = 1 + self.rounds * self.branches * self.copies
        near = f"num_generations={max(each, size // each * each)} would do"
        return f"{' or '.join(fitting)} would do" if self.rounds and fitting else near

    def prepare(self, setup: Setup) -> None:
        """Refuse a policy or an environment that cannot play trees."""
        check_setup(setup)


def check_setup(setup: Setup) -> None:
    """Refuse a policy or an environment that cannot play trees.

    Raises:
        ConfigError: for a policy that cannot go on from the beginning of an answer, or an
            environment that cannot be copied.
    """
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


def refuse_turns(setup: Setup, other: str) -> None:
    """Refuse episodes of more than one turn.

    Args:
        setup: what the part is prepared for.
        other: the name of the part that takes such episodes.

    Raises:
        ConfigError: if an episode can have more than one turn; names the other part.
    """
    if setup.turns > 1:
        raise ConfigError(
            f"it branches inside an answer, and an episode has up to {setup.turns} turns here; "
            f"{other!r} branches between turns"
        )


class Leaves:
    """The answers of one turn, as leaves of trees: an answer may begin with that of another leaf.

    Args:
        player: its policy answers.
        lanes: the episodes of all leaves.

    Attributes:
        actions: the answer of each leaf; None if it has none yet.
        rows: what the policy recorded of each leaf.
        tree: the place from which each leaf branches: a leaf of its group, and a number of tokens.
    """

    def __init__(self, player: EpisodePlayer, lanes: list[Lane]):
        self._player, self._lanes = player, lanes
        self.actions: list[Any] = [None] * len(lanes)
        self.rows: list[dict[str, Any]] = [{} for _ in lanes]
        self.tree = [Branch(None, 0)] * len(lanes)

    @property
    def longest(self) -> int:
        """The largest number of tokens of an answer."""
        return self._player.policy.params.max_tokens  # type: ignore[attr-defined]

    def noise(self, leaf: int) -> int | None:
        """The seed of a leaf's noise."""
        return self._lanes[leaf].noise

    def grow(
        self,
        leaves: Sequence[int],
        begun: Sequence[Completion | None] | None = None,
        limits: Sequence[int] | None = None,
    ) -> None:
        """Let the policy answer for some leaves, and record what it says.

        Args:
            leaves: the indices of these leaves.
            begun: the beginning of each answer; None if it has none.
            limits: the largest number of tokens of each answer, its beginning included.
        """
        if not leaves:
            return
        actions, rows = self._player.answer(
            [self._lanes[i] for i in leaves], branches=True, begun=begun, limits=limits
        )
        for leaf, action, row in zip(leaves, actions, rows):
            self.actions[leaf], self.rows[leaf] = action, row

    def completion(self, leaf: int) -> Completion:
        """What the policy recorded of a leaf's answer."""
        row = self.rows[leaf]
        return Completion(
            row["token_ids"],
            row["token_logprobs"],
            row["token_entropies"],
            row["support"],
            row["truncated"],
        )


def play_answers(
    player: EpisodePlayer, starts: Sequence[Start], grow: Callable[[Leaves], None]
) -> list[Trajectory]:
    """Play whole groups of episodes of one turn, whose answers branch.

    Args:
        player: plays the episodes.
        starts: the starts of all leaves.
        grow: lets the policy answer for all leaves, and fills in their places in the tree.
    """
    tree: list[Branch] = []

    def answer(lanes: list[Lane], _: Any) -> Answers:
        leaves = Leaves(player, lanes)
        grow(leaves)
        tree[:] = leaves.tree
        return leaves.actions, leaves.rows

    try:
        played = player.together(starts, answer)
    finally:
        player.forget()
    return planted(played, tree)


def planted(trajectories: Sequence[Trajectory], tree: Sequence[Branch]) -> list[Trajectory]:
    """Trajectories with ``parent`` and ``branch_at``, their places in the tree.

    Args:
        trajectories: whole groups of leaves.
        tree: for each of them the parent's index in the group, and how many tokens they share.
    """
    return [
        t if place.parent is None else replace(t, parent=place.parent, branch_at=place.at)
        for t, place in zip(trajectories, tree)
    ]


def best_places(scores: Sequence[tuple[float, int, int]], count: int) -> list[tuple[int, int]]:
    """The (leaf, place) of the highest scores; if there are too few, again from the highest.

    Args:
        scores: (score, leaf, place) of each place. Of equal scores the first comes first.
        count: how many places are wanted.
    """
    order = np.argsort([-score for score, _, _ in scores], kind="stable")
    return [scores[order[i % len(order)]][1:] for i in range(count)]
