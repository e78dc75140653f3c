"""Trees of fixed segments: Li et al. 2025, "TreePO" (arXiv 2508.17445), section 2.

A prompt is answered segment by segment; all segments have the same number of tokens. At the end of
a segment every path that goes on becomes ``width`` paths, until there are as many as a group has
leaves. A path that ends or repeats itself is stopped early, and others take its place.

Deviations from the paper:
- Paths become ``width`` paths in their order. The paper shares out a budget by chance or by
  probability.
- There are ``width`` paths at the start. The authors' training script
  (multimodal-art-projection/TreePO) draws from 2 to 8. It has segments of 512 tokens, at most 14 of
  them, a width of 2, and 16 leaves; our default ``segment`` is for short answers.
- If all paths have stopped before there are enough, new ones go on from the ends of earlier
  segments, drawn at random (the paper's fallback), or from the prompt if there are no such ends.
- Repetition is the share of n-grams of tokens that have come before in the answer.
- The advantages are TreeRL's, see `textenv.algos.training.tree_advantages`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from textenv.algos.config import check_bounds, check_types
from textenv.algos.episodes.trajectory import Trajectory
from textenv.algos.lm.generation.completions import Completion
from textenv.algos.strategies.protocols import EpisodePlayer, Generation, Setup, Start
from textenv.algos.strategies.selection.drop import repeated
from textenv.algos.strategies.trees.branching import (
    Branch,
    Leaves,
    check_setup,
    play_answers,
    refuse_turns,
)


@dataclass
class SegmentTree(Generation):
    """Branches at the ends of segments of one length.

    Raises:
        ConfigError: for a value out of range.
    """

    name: ClassVar[str] = "segment_tree"

    segment: int = 8
    """Tokens of a segment. Set it to about the length of one step of an answer."""
    width: int = 2
    """How many paths a path becomes at the end of a segment; also how many there are at first."""
    repetition: float | None = 0.5
    """Stop a path if a greater share of it is repeated; unset: stop none for this."""
    ngram: int = 4
    """How many tokens in a row must come again to count as repeated."""
    _size: int = field(default=1, init=False, repr=False)

    def __post_init__(self) -> None:
        check_types(self)
        check_bounds(self, segment=(1, None), width=(1, None), repetition=(0, 1), ngram=(1, None))

    @property
    def has_trees(self) -> bool:
        """Always true."""
        return True

    def check(self, num_generations: int) -> None:
        """Accept groups of any size."""
        self._size = num_generations

    def prepare(self, setup: Setup) -> None:
        """Refuse episodes of many turns, and what cannot play trees."""
        refuse_turns(setup, "turn_tree")
        check_setup(setup)

    def play(self, player: EpisodePlayer, starts: Sequence[Start]) -> list[Trajectory]:
        """Play whole groups, each as a tree."""
        return play_answers(player, starts, self._grow)

    def _grow(self, answers: Leaves) -> None:
        """Let the policy answer, segment by segment, for all leaves."""
        size, longest = self._size, answers.longest
        groups = range(0, len(answers.tree), size)
        paths = {g: list(range(g, g + min(self.width, size))) for g in groups}  # of each group
        live = [leaf for some in paths.values() for leaf in some]
        begun: dict[int, Completion] = {}
        while live:
            full = all(len(some) == size for some in paths.values()) and self.repetition is None
            lengths = [len(begun[i].token_ids) if i in begun else 0 for i in live]
            ends = [longest if full else min(n + self.segment, longest) for n in lengths]
            answers.grow(live, [begun.get(i) for i in live], ends)
            begun = {i: answers.completion(i) for i in live if self._goes_on(answers, i, longest)}
            for g, some in paths.items():
                going = [i for i in some if i in begun]
                for leaf, head in self._heads(answers, some, going, answers.noise(g)):
                    new = g + len(some)
                    answers.tree[new] = Branch(leaf - g, len(head.token_ids))
                    begun[new] = head
                    some.append(new)
            live = sorted(begun)

    def _goes_on(self, answers: Leaves, leaf: int, longest: int) -> bool:
        """Whether a path is neither complete nor repeating itself."""
        row = answers.rows[leaf]
        if not row["truncated"] or len(row["token_ids"]) >= longest:
            return False
        return self.repetition is None or repeated(row["token_ids"], self.ngram) <= self.repetition

    def _heads(
        self, answers: Leaves, paths: Sequence[int], going: Sequence[int], noise: int | None
    ) -> list[tuple[int, Completion]]:
        """The (leaf, beginning of its answer) from which each new path of a group goes on."""
        room = self._size - len(paths)
        if going:
            copies = [i for i in going for _ in range(self.width - 1)]
            return [(i, answers.completion(i)) for i in copies[:room]]
        places = [
            (i, at)
            for i in paths
            for at in range(self.segment, len(answers.rows[i]["token_ids"]), self.segment)
        ] or [(paths[0], 0)]
        drawn = np.random.default_rng((noise or 0, len(paths))).integers(len(places), size=room)
        return [(places[k][0], answers.completion(places[k][0]).head(places[k][1])) for k in drawn]
