"""What a strategy is made of: parts for four slots, and what they are given.

A part derives from `Prompts`, `Generation`, `Selection` or `Reuse`, whose defaults do nothing, and
is a dataclass: the fields that its constructor takes are its settings, as the command line has them
(``dapo:cap=4``), other fields (``field(init=False)``) are what it remembers.

Parts run in the main process, on whole groups; only `Generation` runs where the policy does, which
may be in worker processes. What they draw comes from a generator of their own (`Setup.rng`), and
what they remember goes into a checkpoint (`StrategyPart.state`).
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import numpy as np

from textenv.algos.episodes.trajectory import Trajectory
from textenv.errors import DataError

if TYPE_CHECKING:
    from textenv.algos.episodes.episode import Lane, PlayedTurn
    from textenv.algos.lm.scoring.batch import TokenBatch

Group = list[Trajectory]
"""The trajectories of one starting point."""


class Start(NamedTuple):
    """Where an episode of text starts."""

    group_id: int
    """Numbered anew when the start has been chosen: what a part sets here does not matter."""
    seed: int
    options: dict[str, Any] | None
    """Of the reset; ``example_id`` names an example of a finite task."""
    noise: int | None = None
    """Seed of the policy's noise in this one episode; None leaves that to the policy."""


Propose = Callable[[int], list[Start]]
"""``propose(n)``: the next n starting points, one a group, in the uniform order: shuffled epochs of
a finite task, fresh seeds of others. What was proposed and not chosen does not come again before
the next epoch."""


Answers = tuple[list[Any], list[dict[str, Any]]]
"""The actions of some episodes, and the extras of each."""

OnAnswer = Callable[[int, Any, dict[str, Any]], None]
"""Called with an episode's index among those that are answered, its action and its extras, before
the other answers are there. Rewards that run elsewhere can then begin."""

Answer = Callable[["list[Lane]", OnAnswer], Answers]
"""``answer(lanes, on_answer)``: the actions of the episodes that go on."""


class EpisodePlayer(Protocol):
    """What `Generation` needs to play episodes: an environment and a policy, behind four methods.

    `textenv.algos.rollouts.player.TextPlayer` says more of each.
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
        """Play one episode from each start side by side, with answers from elsewhere."""
        ...

    def answer(self, lanes: list[Lane], on_answer: OnAnswer | None = None, **tree: Any) -> Answers:
        """The policy's answers for some episodes."""
        ...

    def forget(self) -> None:
        """Let the policy forget what it kept for branches."""
        ...


class Setup(NamedTuple):
    """What a part is used with."""

    env: Any
    """The environment, in a `DictStep`."""
    policy: Any
    num_groups: int
    """Groups that a rollout is to have."""
    num_generations: int
    """Trajectories of a group."""
    turns: int
    """Most steps of an episode."""
    seed: int | None

    def rng(self, name: str) -> np.random.Generator:
        """A stream of noise for the part of this name; another each time where there is no seed."""
        key = None if self.seed is None else (self.seed, zlib.crc32(name.encode()))
        return np.random.default_rng(key)


class StrategyPart:
    """What the parts of all slots have in common."""

    name: ClassVar[str] = ""
    """What it is called in a configuration."""
    slot: ClassVar[str] = ""

    def check(self, num_generations: int) -> None:
        """Refuse groups of this size, when the strategy is made.

        Raises:
            ConfigError: naming both numbers.
        """

    def prepare(self, setup: Setup) -> None:
        """Make ready for an environment and a policy, before anything is generated.

        Raises:
            ConfigError: where the part cannot be used with them.
        """

    @property
    def settings(self) -> dict[str, Any]:
        """What its constructor was given."""
        return {name: getattr(self, name) for name in settings_of(type(self))}

    @property
    def plain_settings(self) -> dict[str, Any]:
        """The same in JSON's types; an object by its ``repr``."""
        plain = (str, int, float, bool, type(None))
        return {k: v if isinstance(v, plain) else repr(v) for k, v in self.settings.items()}

    @property
    def title(self) -> str:
        """Its name and settings, as a configuration would have them."""
        return make_title(self.name or type(self).__qualname__, self.plain_settings)

    def metrics(self) -> dict[str, float]:
        """What it has to tell of itself after a rollout, such as a level of difficulty."""
        return {}

    def state(self) -> dict[str, Any]:
        """What it remembers, in JSON's types; see `save_rng` for a generator's."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave; called after `prepare`."""


class Prompts(StrategyPart):
    """Chooses the starting points."""

    slot = "prompts"
    skipped: int = 0
    """Starting points passed over so far."""

    def choose(self, propose: Propose, count: int) -> list[Start]:
        """The starting points of the next ``count`` groups.

        Args:
            propose: gives starting points in the uniform order. Others may be made from these:
                ``start._replace(seed=..., options=...)``.
            count: how many to return: all groups of a rollout, or those that it lacks still.
        """
        return propose(count)

    def observe(self, groups: Sequence[Group]) -> None:
        """Learn what came of what was chosen; called before anything is selected."""


class Generation(StrategyPart):
    """Plays episodes from the starting points."""

    slot = "generation"

    @property
    def has_trees(self) -> bool:
        """Whether trajectories may begin with tokens of others, which then count once."""
        return False

    def play(self, player: EpisodePlayer, starts: Sequence[Start]) -> list[Trajectory]:
        """Play whole groups.

        Args:
            player: plays episodes; ``player.chains(starts)`` plays one from each start.
            starts: ``num_generations`` for each group, one after another, alike but for their
                noise.

        Returns:
            The trajectories, group by group in the order of the starts. One that shares the
            beginning of another has its index in the group as ``parent``.
        """
        return player.chains(starts)

    def credit(self, batch: TokenBatch, advantages: np.ndarray) -> np.ndarray:
        """The advantages of the tokens of trees.

        Args:
            batch: in which rows share what they begin with.
            advantages: (N,) of the leaves, as the algorithm has them.

        Returns:
            (N, T); by default as TreeRL defines them.
        """
        from textenv.algos.training.tree_advantages import tree_advantages

        return tree_advantages(batch, advantages)


class Selection(StrategyPart):
    """Decides what is kept of what was played."""

    slot = "selection"
    rounds: int = 1
    """How often the prompts of a rollout are drawn at most: while groups are missing, more are."""

    def select(self, groups: Sequence[Group]) -> list[Group]:
        """The groups of one round that are kept, whole or in part, or with other rewards.

        `textenv.algos.strategies.groups.thin` takes some trajectories of a group; what changes a
        trajectory returns a copy (``dataclasses.replace``). Rewards stay as they are: what
        advantages are to take from them goes to ``shaping``.
        """
        return list(groups)

    def end(self, kept: int, wanted: int, rounds: int) -> None:
        """Be told how many groups a rollout came to, in how many rounds.

        Raises:
            RolloutError: where a strategy is told to stop at its cap.
        """


class Reuse(StrategyPart):
    """Decides what else is trained on, and with which weights."""

    slot = "reuse"

    def extend(self, groups: Sequence[Group], version: int) -> list[Group]:
        """The groups to train on.

        Args:
            groups: of this rollout, selected.
            version: how many optimizer steps have changed the policy; ``policy_version`` of a
                trajectory is what that was when it was played.

        Returns:
            Groups of this rollout and of earlier ones. A copy of a trajectory may have
            ``token_weights`` (one for each of ``token_ids``; 0 leaves a token out of the loss).
        """
        return list(groups)


SLOTS: dict[str, type[StrategyPart]] = {
    kind.slot: kind for kind in (Prompts, Generation, Selection, Reuse)
}


def settings_of(kind: type) -> list[str]:
    """The names of what the constructor of a dataclass takes; none of another class."""
    if not dataclasses.is_dataclass(kind):
        return []
    return [field.name for field in dataclasses.fields(kind) if field.init]


def make_title(name: str, settings: dict[str, Any]) -> str:
    """A part as a configuration has it: ``dapo:cap=4``."""
    return name + ":" * bool(settings) + ",".join(f"{k}={v}" for k, v in settings.items())


def save_rng(rng: np.random.Generator) -> dict[str, Any]:
    """Where a generator is, in JSON's types."""
    return dict(rng.bit_generator.state)


def load_rng(rng: np.random.Generator, state: dict[str, Any]) -> None:
    """Set a generator to where `save_rng` found another of its kind.

    Raises:
        DataError: for something else.
    """
    try:
        rng.bit_generator.state = state
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"not the state of a random generator: {error!r}") from error
