"""EPTree: Hou et al. 2025, "TreeRL" (arXiv 2506.11902), section 3.

M chains are sampled of a prompt; then, L times, each of the M trees branches at the N tokens about
which the policy was least certain, T times at each: from there on, the token included, an answer is
sampled anew. That makes M * (1 + L * N * T) leaves.

Deviations from the paper:
- Its "entropy" of a token is -log p of the token that was sampled, called ``surprise`` here;
  ``entropy`` is Shannon's, of the distribution that the token was drawn from.
- The first token of an answer is no place to branch at, for that would be one more chain; nor is a
  place where the tree has branched already. The authors' code (THUDM/TreeRL) excludes neither, and
  branches once at each place.
- Where a tree has fewer places than branches, it branches there again; where it has none, as an
  answer has one token, that is sampled once more: groups are always of one size.
- There is no list of words ("conclusion", "answer") after which nothing branches, as that code has.
- ``earliest`` keeps branches out of the beginnings of answers: the paper has no such bound, and by
  default there is none.
- A branch has room for what its chain had left, so that no answer is longer than another's limit;
  in that code it begins anew.

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
        ConfigError: for a value out of range, or as many leaves as a group does not have.
    """

    name: ClassVar[str] = "tree"

    score: str = "entropy"
    """entropy (of the distribution) or surprise (-log p of the token, which TreeRL uses)."""
    earliest: float = 0.0
    """Share of an answer that a branch has in common with it at least; more computes less, and
    makes leaves more alike."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, score=SCORES)
        check_bounds(self, earliest=(0, 1))

    def prepare(self, setup: Setup) -> None:
        """Refuse many turns, and what cannot be played as a tree."""
        refuse_turns(setup, "turn_tree")
        super().prepare(setup)

    def play(self, player: EpisodePlayer, starts: Sequence[Start]) -> list[Trajectory]:
        """Play whole groups."""
        return play_answers(player, starts, self._grow)

    def _grow(self, answers: Leaves) -> None:
        """Let the policy answer, as a tree, for all leaves."""
        groups, first = range(0, len(answers.tree), self._size), self._first
        answers.grow([g + m for g in groups for m in range(first)])
        # Leaves of each tree, of all groups: (first leaf of the group, leaves).
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
        """N places (leaf, position) at which a tree branches."""
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
