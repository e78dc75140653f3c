"""Trees of many turns: Ji et al. 2025, "Tree Search for LLM Agent RL" (arXiv 2509.21240).

M episodes are played from a starting point. Then, L times, each of the M trees branches after N of
the environment's answers, drawn at random. From there on the episodes are played anew.

An environment cannot be copied in the middle of an episode. So a branch begins with the same reset
and plays the same actions again, and the environment must answer the same.

Deviations from the paper:
- A tree does not branch at the start of an episode, for that would be one more chain, nor, while
  there are other places, at a place where it has branched already.
- If a tree has no such place, since its episodes have one turn, it is played once more from the
  start. So all groups have one size.
- The advantages are TreeRL's, see `textenv.algos.training.tree_advantages`. The paper compares the
  leaves of each tree and of all trees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from textenv.algos.episodes.episode import Lane, PlayedTurn
from textenv.algos.episodes.trajectory import Trajectory
from textenv.algos.strategies.protocols import Answers, EpisodePlayer, OnAnswer, Setup, Start
from textenv.algos.strategies.trees.branching import Branch, Branching, best_places, planted
from textenv.errors import ConfigError


@dataclass
class TurnTree(Branching):
    """Branches between turns, after an answer of the environment.

    Raises:
        ConfigError: for a value out of range, or settings that do not make the leaves of a group.
    """

    name: ClassVar[str] = "turn_tree"

    def prepare(self, setup: Setup) -> None:
        """Refuse episodes of one turn, and what cannot play trees."""
        if setup.turns == 1:
            raise ConfigError(
                "it branches between turns, and an episode has one turn here; 'tree' branches "
                "inside an answer"
            )
        super().prepare(setup)

    def play(self, player: EpisodePlayer, starts: Sequence[Start]) -> list[Trajectory]:
        """Play whole groups, each as trees."""
        episodes = _BranchedEpisodes(player, starts)
        groups = range(0, len(starts), self._size)
        trees = [(g, [g + m]) for g in groups for m in range(self._first)]
        free = {g: g + self._first for g in groups}  # the next leaf of each group
        taken: set[tuple[int, int]] = set()
        try:
            episodes.play({leaf: Branch(None, 0) for _, members in trees for leaf in members})
            for turn in range(self.rounds):
                new: dict[int, Branch] = {}
                for g, members in trees:
                    noise = starts[members[0]].noise or 0
                    rng = np.random.default_rng((noise, turn))
                    for leaf, at in self._places(episodes, members, taken, rng):
                        taken.add((leaf, at))
                        for _ in range(self.copies):
                            new[free[g]] = Branch(leaf, at)
                            members.append(free[g])
                            free[g] += 1
                episodes.play(new)
        finally:
            player.forget()
        return episodes.leaves(self._size)

    def _places(
        self,
        episodes: _BranchedEpisodes,
        members: Sequence[int],
        taken: set[tuple[int, int]],
        rng: np.random.Generator,
    ) -> list[tuple[int, int]]:
        """The N places (leaf, turns) after which a tree branches."""
        places = [
            (leaf, at)
            for leaf in members
            for at in range(episodes.tree[leaf].at + 1, len(episodes.turns[leaf]))
        ]
        fresh = [place for place in places if place not in taken]
        pool = fresh or places or [(members[0], 0)]
        return best_places(
            [(score, *at) for score, at in zip(rng.random(len(pool)), pool)], self.branches
        )


class _BranchedEpisodes:
    """Episodes that may begin with turns of other episodes.

    Args:
        player: plays the episodes.
        starts: the starts of all leaves.

    Attributes:
        turns: the turns of each leaf that was played.
        tree: the place from which each leaf branches: a leaf, and a number of turns.
    """

    def __init__(self, player: EpisodePlayer, starts: Sequence[Start]):
        self._player, self._starts = player, starts
        self._played: dict[int, Trajectory] = {}
        self._tokens: dict[int, list[int]] = {}  # of each leaf, before each turn's answer
        self.turns: dict[int, list[PlayedTurn]] = {}
        self.tree: dict[int, Branch] = {}

    def play(self, new: dict[int, Branch]) -> None:
        """Play leaves, each after the turns that it shares with its parent."""
        if not new:
            return
        self.tree.update(new)
        shared = [
            [] if place.parent is None else self.turns[place.parent][: place.at]
            for place in new.values()
        ]
        lanes: list[Lane] = []
        rows: dict[int, list[tuple[str, dict]]] = {}

        def answer(going: list[Lane], on_answer: OnAnswer) -> Answers:
            if not lanes:
                lanes.extend(going)  # none has ended yet, so these are all of them
                rows.update({id(lane): [] for lane in going})
            actions, extras = self._player.answer(going, on_answer, branches=True)
            for lane, action, row in zip(going, actions, extras):
                rows[id(lane)].append((action, row))
            return actions, extras

        starts = [self._starts[leaf] for leaf in new]
        played = self._player.together(starts, answer, shared)
        for leaf, trajectory, lane, before in zip(new, played, lanes, shared):
            said = [*trajectory.observations[1:], trajectory.final_observation]
            own = zip(rows[id(lane)], said[len(before) :])
            self._played[leaf] = trajectory
            self.turns[leaf] = before + [PlayedTurn(*pair, after) for pair, after in own]

    def leaves(self, size: int) -> list[Trajectory]:
        """All leaves in order, with their places in the trees."""
        tree = []
        for leaf in range(len(self._starts)):
            parent, at = self.tree[leaf]
            if parent is None:
                tree.append(Branch(None, 0))
            else:
                tree.append(Branch(parent % size, self._first_token(parent, at)))
        return planted([self._played[leaf] for leaf in range(len(self._starts))], tree)

    def _first_token(self, leaf: int, turn: int) -> int:
        """Position in ``token_ids`` of the first token of a turn's answer."""
        turns = self.turns[leaf]
        prompt = len(turns[0].extras["prompt_ids"])
        return len(turns[turn].extras["prompt_ids"]) - prompt
