"""EPTree: Hou et al. 2025, "TreeRL" (arXiv 2506.11902), section 3.

M chains of a prompt are sampled. Then, L times, each of the M trees branches at the N tokens about
which the policy was least certain, T times at each. A branch samples an answer anew from that token
on, the token included. That makes M * (1 + L * N * T) leaves.

Deviations from the paper:
- Its "entropy" of a token is -log p of the token that was sampled, called ``surprise`` here.
  ``entropy`` is Shannon's, of the distribution that the token was drawn from.
- A tree does not branch at the first token of an answer, for that would be one more chain, nor at a
  place where it has branched already. The authors' code (THUDM/TreeRL) excludes neither, and
  branches once at each place.
- If a tree has fewer places than branches, it branches again at the same places. If it has none,
  since its answer has one token, that token is sampled once more. So all groups have one size.
- That code has a list of words ("conclusion", "answer") after which nothing branches; here there is
  none.
- ``earliest`` keeps branches out of the beginnings of answers. The paper has no such bound, and by
  default there is none.
- A branch may have as many tokens as its chain had left, so that all answers have the same limit.
  In that code a branch has the whole limit for itself.

The advantages are in `textenv.algos.training.tree_advantages`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import ClassVar

from textenv.algos.config import check_bounds, check_choice
from textenv.algos.episodes.trajectory import Trajectory
from textenv.algos.lm.generation.completions import Completion
from textenv.algos.strategies.protocols import EpisodePlayer, Setup, Start
from textenv.algos.strategies.trees.branching import (
    Branch,
    Branching,
    Leaves,
    best_places,
    play_answers,
    refuse_turns,
)

SCORES = ("entropy", "surprise")


@dataclass
class Tree(Branching):
    """Branches at the tokens about which the policy was least certain.

    Raises:
        ConfigError: for a value out of range, or settings that do not make the leaves of a group.
    """

    name: ClassVar[str] = "tree"

    score: str = "entropy"
    """entropy (of the distribution) or surprise (-log p of the token, which TreeRL uses)."""
    earliest: float = 0.0
    """The least share of an answer that a branch has in common with it. A higher one computes less,
    and makes the leaves more alike."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, score=SCORES)
        check_bounds(self, earliest=(0, 1))

    def prepare(self, setup: Setup) -> None:
        """Refuse episodes of many turns, and what cannot play trees."""
        refuse_turns(setup, "turn_tree")
        super().prepare(setup)

    def play(self, player: EpisodePlayer, starts: Sequence[Start]) -> list[Trajectory]:
        """Play whole groups, each as trees."""
        return play_answers(player, starts, self._grow)

    def _grow(self, answers: Leaves) -> None:
        """Let the policy answer, as a tree, for all leaves."""
        groups, first = range(0, len(answers.tree), self._size), self._first
        answers.grow([g + m for g in groups for m in range(first)])
        # Of each tree of all groups: (the first leaf of the group, the tree's leaves).
        trees = [(g, [g + m]) for g in groups for m in range(first)]
        taken: set[tuple[int, int]] = set()  # (leaf, place)
        free = {g: g + first for g in groups}  # the next leaf of each group
        for _ in range(self.rounds):
            new: dict[int, Completion] = {}
            for g, members in trees:
                for leaf, at in self._places(answers, members, taken):
                    taken.add((leaf, at))
                    for _ in range(self.copies):
                        new[free[g]] = answers.completion(leaf).head(at)
                        answers.tree[free[g]] = Branch(leaf - g, at)
                        members.append(free[g])
                        free[g] += 1
            answers.grow(list(new), list(new.values()))

    def _places(
        self, answers: Leaves, members: Sequence[int], taken: set[tuple[int, int]]
    ) -> list[tuple[int, int]]:
        """The N places (leaf, position) at which a tree branches."""
        scores = []
        for leaf in members:
            row = answers.rows[leaf]
            length = len(row["token_ids"])
            own = max(answers.tree[leaf].at + 1, min(ceil(self.earliest * length), length - 1))
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
