"""EPTree: Hou et al. 2025, "TreeRL" (arXiv 2506.11902), section 3.

M chains are sampled of a prompt; then, L times, each of the M trees branches at the N tokens about
which the policy was least certain, T times at each: from there on, the token included, an answer is
sampled anew. That makes M * (1 + L * N * T) leaves.

Deviations from the paper:
- Its "entropy" of a token is -log p of the token that was sampled, called ``surprise`` here;
  ``entropy`` is Shannon's, of the distribution that the token was drawn from.
- The first token of an answer is no place to branch at, for that would be one more chain; nor is a
  place where the tree has branched already.
- Where a tree has fewer places than branches, it branches there again; where it has none, as an
  answer has one token, that is sampled once more: groups are always of one size.
- There is no list of words ("conclusion", "answer") after which nothing branches.
- A branch has room for what its chain had left, so that no answer is longer than another's limit.

The advantages are in `textenv.algos.strategies.tree_advantages`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from textenv.algos.completions import Completion
from textenv.algos.config import check_choice
from textenv.algos.strategies.branching import Branch, Branching, best_places, planted
from textenv.algos.strategies.protocols import Setup, Start
from textenv.algos.trajectory import Trajectory
from textenv.errors import ConfigError

if TYPE_CHECKING:
    from textenv.algos.lanes import Lane
    from textenv.algos.rollout import Answers, RolloutRunner

SCORES = ("entropy", "surprise")


@dataclass
class Tree(Branching):
    """Branches at the tokens about which the policy was least certain.

    Raises:
        ConfigError: for a value out of range, or as many leaves as a group does not have.
    """

    name: ClassVar[str] = "tree"

    score: str = "entropy"
    """entropy (of the distribution) or surprise (-log p of the token, which TreeRL uses)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, score=SCORES)

    def prepare(self, setup: Setup) -> None:
        """Refuse many turns, and what cannot be played as a tree."""
        refuse_turns(setup, "turn_tree")
        super().prepare(setup)

    def play(self, runner: RolloutRunner, starts: Sequence[Start]) -> list[Trajectory]:
        """Play whole groups."""
        tree: list[Branch] = []
        try:
            leaves = runner.together(starts, partial(self._answer, runner, tree))
        finally:
            runner.forget()
        return planted(leaves, tree)

    def _answer(self, runner: RolloutRunner, tree: list[Branch], lanes: list[Lane]) -> Answers:
        """The answers of all leaves; where they come from is added to the tree."""
        size, first = self._size, self._first
        answers = Leaves(runner, lanes)
        tree += [Branch(None, 0)] * len(lanes)
        answers.grow([g + m for g in range(0, len(lanes), size) for m in range(first)])
        # Leaves of each tree, of all groups: (first leaf of the group, leaves).
        trees = [(g, [g + m]) for g in range(0, len(lanes), size) for m in range(first)]
        taken: set[tuple[int, int]] = set()  # (leaf, place)
        free = {g: g + first for g in range(0, len(lanes), size)}  # the next leaf of each group
        for _ in range(self.rounds):
            new: dict[int, Completion] = {}
            for g, members in trees:
                for leaf, at in self._places(answers, members, tree, taken):
                    taken.add((leaf, at))
                    for _ in range(self.copies):
                        new[free[g]] = answers.completion(leaf).head(at)
                        tree[free[g]] = Branch(leaf - g, at)
                        members.append(free[g])
                        free[g] += 1
            answers.grow(list(new), list(new.values()))
        return answers.actions, answers.rows

    def _places(
        self,
        answers: Leaves,
        members: Sequence[int],
        tree: Sequence[Branch],
        taken: set[tuple[int, int]],
    ) -> list[tuple[int, int]]:
        """N places (leaf, position) at which a tree branches."""
        scores = []
        for leaf in members:
            row = answers.rows[leaf]
            own = tree[leaf].at + 1
            values = row["token_entropies"]
            if self.score == "surprise":
                values = [-logprob for logprob in row["token_logprobs"]]
            scores += [
                (value, leaf, own + i)
                for i, value in enumerate(values[own:])
                if (leaf, own + i) not in taken
            ]
        again = [(0.0, leaf, at) for leaf, at in sorted(taken) if leaf in members]
        return best_places(scores or again or [(0.0, members[0], 0)], self.branches)


class Leaves:
    """The answers of one turn, of leaves that may begin with those of others.

    Args:
        runner: whose policy answers.
        lanes: of all leaves.

    Attributes:
        actions: of the leaves that there are so far; None for others.
        rows: what the policy recorded.
    """

    def __init__(self, runner: RolloutRunner, lanes: list[Lane]):
        self._runner, self._lanes = runner, lanes
        self.actions: list[Any] = [None] * len(lanes)
        self.rows: list[dict[str, Any]] = [{} for _ in lanes]

    def grow(
        self,
        leaves: Sequence[int],
        begun: Sequence[Completion | None] | None = None,
        limits: Sequence[int] | None = None,
    ) -> None:
        """Let the policy answer for some leaves, in their places.

        Args:
            leaves: which.
            begun: what each begins with.
            limits: the most tokens of each, the begun ones included.
        """
        if not leaves:
            return
        actions, rows = self._runner.answer(
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


def refuse_turns(setup: Setup, other: str) -> None:
    """Refuse episodes of many turns.

    Raises:
        ConfigError: naming the part that takes them.
    """
    if setup.turns > 1:
        raise ConfigError(
            f"it branches inside an answer, and an episode has up to {setup.turns} turns here; "
            f"{other!r} branches between turns"
        )
