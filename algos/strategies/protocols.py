"""The base classes of a strategy's parts, one for each of its four slots, and what they are given.

A part derives from `Prompts`, `Generation`, `Selection` or `Reuse`, whose defaults do nothing. It
is a dataclass. The fields that its constructor takes are its settings, which the command line can
set (``dapo:cap=4``). Other fields (``field(init=False)``) hold what it remembers.

Parts run in the main process, on whole groups. Only `Generation` runs beside the policy, which may
be in worker processes. A part draws random numbers from a generator of its own (`Setup.rng`). What
it remembers goes into a checkpoint (`StrategyPart.state`).
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import numpy as np

from textenv.algos.episodes.trajectory import Trajectory

if TYPE_CHECKING:
    from textenv.algos.episodes.episode import Lane, PlayedTurn
    from textenv.algos.lm.scoring.batch import TokenBatch

Group = list[Trajectory]
"""Trajectories that began at the same starting point."""


class Start(NamedTuple):
    """Where an episode of text starts."""

    group_id: int
    """The planner numbers the groups when their starts are chosen; a part may set any number."""
    seed: int
    options: dict[str, Any] | None
    """Options of the reset; ``example_id`` names an example of a finite task."""
    noise: int | None = None
    """Seed of the policy's noise in this one episode; None leaves the noise to the policy."""


Propose = Callable[[int], list[Start]]
"""``propose(n)`` gives the next n starting points, one for each group, in the uniform order.

That is shuffled epochs of a finite task, and fresh seeds for other tasks. A starting point that was
proposed but not chosen does not come again before the next epoch.
"""

Answers = tuple[list[Any], list[dict[str, Any]]]
"""The actions of some episodes, and the extras of each."""

OnAnswer = Callable[[int, Any, dict[str, Any]], None]
"""``on_answer(index, action, extras)`` is called as soon as one answer is there, before the others,
so that rewards that run elsewhere can begin. The index is among the episodes that are answered."""

Answer = Callable[["list[Lane]", OnAnswer], Answers]
"""``answer(lanes, on_answer)`` gives the actions and extras of the episodes that go on."""


class EpisodePlayer(Protocol):
    """What `Generation` needs to play episodes: an environment and a policy, behind four methods.

    `textenv.algos.rollouts.player.TextPlayer` describes each of them.
    """

    policy: Any

    def chains(self, starts: Sequence[Start]) -> list[Trajectory]:
        """Play one episode from each start, independently of each other."""
        ...

    def together(
        self,
        starts: Sequence[Start],
        answer: Answer,
        after: Sequence[Sequence[PlayedTurn]] | None = None,
    ) -> list[Trajectory]:
        """Play one episode from each start, side by side, with answers from a function."""
        ...

    def answer(self, lanes: list[Lane], on_answer: OnAnswer | None = None, **tree: Any) -> Answers:
        """The policy's answers for some episodes, and their extras."""
        ...

    def forget(self) -> None:
        """Let the policy forget what it kept for branches."""
        ...


class Setup(NamedTuple):
    """What a part is prepared for: an environment, a policy, and the size of a rollout."""

    env: Any
    """The environment, which steps in dicts."""
    policy: Any
    num_groups: int
    """How many groups a rollout is to have."""
    num_generations: int
    """How many trajectories a group has."""
    turns: int
    """The largest number of steps of an episode."""
    seed: int | None

    def rng(self, name: str) -> np.random.Generator:
        """A random generator for the part of this name; without a seed, another one each time."""
        key = None if self.seed is None else (self.seed, zlib.crc32(name.encode()))
        return np.random.default_rng(key)


class StrategyPart:
    """What the parts of all slots have in common."""

    name: ClassVar[str] = ""
    """The name of the part in a configuration."""
    slot: ClassVar[str] = ""
    """The slot of a strategy that the part fills."""

    def check(self, num_generations: int) -> None:
        """Check the size of the groups when the strategy is made.

        Raises:
            ConfigError: if the part cannot work on groups of this size; names both numbers.
        """

    def prepare(self, setup: Setup) -> None:
        """Prepare for an environment and a policy, before anything is generated.

        Raises:
            ConfigError: if the part cannot be used with them.
        """

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of its constructor, by name."""
        return {name: getattr(self, name) for name in settings_of(type(self))}

    @property
    def plain_settings(self) -> dict[str, Any]:
        """The settings in JSON's types; any other object becomes its ``repr``."""
        plain = (str, int, float, bool, type(None))
        return {k: v if isinstance(v, plain) else repr(v) for k, v in self.settings.items()}

    @property
    def title(self) -> str:
        """Its name and settings, as a configuration writes them."""
        return make_title(self.name or type(self).__qualname__, self.plain_settings)

    def metrics(self) -> dict[str, float]:
        """Metrics of the part itself after a rollout, such as a level of difficulty."""
        return {}

    def state(self) -> dict[str, Any]:
        """What it remembers, in JSON's types.

        ``save_rng`` in ``textenv.algos.storage.checkpoints.state`` gives the state of a generator.
        """
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave; called after `prepare`."""


class Prompts(StrategyPart):
    """Chooses the starting points."""

    slot = "prompts"
    skipped: int = 0
    """How many starting points it has passed over so far."""

    def choose(self, propose: Propose, count: int) -> list[Start]:
        """The starting points of the next ``count`` groups.

        Args:
            propose: gives starting points in the uniform order. A part may make others from these:
                ``start._replace(seed=..., options=...)``.
            count: how many to return: one for each group of a rollout, or for each one that is
                still missing.
        """
        return propose(count)

    def observe(self, groups: Sequence[Group]) -> None:
        """Learn from the groups that were played; called before any of them is selected."""


class Generation(StrategyPart):
    """Plays episodes from the starting points."""

    slot = "generation"

    @property
    def has_trees(self) -> bool:
        """Whether a trajectory may begin with tokens of another one; such tokens count once."""
        return False

    def play(self, player: EpisodePlayer, starts: Sequence[Start]) -> list[Trajectory]:
        """Play whole groups.

        Args:
            player: plays episodes; ``player.chains(starts)`` plays one from each start.
            starts: ``num_generations`` for each group, one group after another. The starts of a
                group differ in their noise alone.

        Returns:
            The trajectories, group by group in the order of the starts. A trajectory that shares
            the beginning of another one has the other's index in the group as its ``parent``.
        """
        return player.chains(starts)

    def credit(self, batch: TokenBatch, advantages: np.ndarray) -> np.ndarray:
        """The advantages of the tokens of trees.

        Args:
            batch: its rows may share their beginnings.
            advantages: (N,) of the leaves, as the algorithm computes them.

        Returns:
            (N, T); by default as TreeRL defines them.
        """
        from textenv.algos.training.tree_advantages import tree_advantages

        return tree_advantages(batch, advantages)


class Selection(StrategyPart):
    """Decides which of the played trajectories are kept."""

    slot = "selection"
    rounds: int = 1
    """The most rounds of one rollout. While groups are missing, another round draws prompts."""
    oversampling: int = 1
    """How many times the groups of a rollout a round may play, at most."""

    def ask(self, missing: int, played: int) -> int:
        """How many groups the next round plays; 0 ends the rollout.

        What is kept beyond the size of a rollout is left out.

        Args:
            missing: how many groups are missing, or what the part before makes of that.
            played: how many groups this rollout has played so far.
        """
        return missing

    def select(self, groups: Sequence[Group]) -> list[Group]:
        """The groups of one round that are kept, whole or in part.

        `textenv.algos.strategies.groups.thin` keeps some trajectories of a group. To change a
        trajectory, return a copy (``dataclasses.replace``). Leave its rewards as they are: what
        the advantages are to add to them goes into ``shaping``.
        """
        return list(groups)

    def end(self, kept: int, wanted: int, rounds: int) -> None:
        """Take note that a rollout has ended.

        Args:
            kept: how many groups it has.
            wanted: how many groups it was to have.
            rounds: in how many rounds they were played.

        Raises:
            RolloutError: if groups are missing, and the part is set to stop the run then.
        """


class Reuse(StrategyPart):
    """Decides what else is trained on, and with which weights."""

    slot = "reuse"

    def extend(self, groups: Sequence[Group], version: int) -> list[Group]:
        """The groups to train on.

        Args:
            groups: the groups of this rollout that were selected.
            version: how many optimizer steps have changed the policy so far. A trajectory's
                ``policy_version`` is the same number at the time when it was played.

        Returns:
            Groups of this rollout and of earlier ones. A copy of a trajectory may have
            ``token_weights`` (one for each of ``token_ids``; 0 leaves a token out of the loss).
        """
        return list(groups)


SLOTS: dict[str, type[StrategyPart]] = {
    kind.slot: kind for kind in (Prompts, Generation, Selection, Reuse)
}


def settings_of(kind: type) -> list[str]:
    """The names of the constructor's arguments if a class is a dataclass; else none."""
    if not dataclasses.is_dataclass(kind):
        return []
    return [field.name for field in dataclasses.fields(kind) if field.init]


def make_title(name: str, settings: dict[str, Any]) -> str:
    """A part as a configuration writes it: ``dapo:cap=4``."""
    return name + ":" * bool(settings) + ",".join(f"{k}={v}" for k, v in settings.items())
