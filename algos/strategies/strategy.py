"""The strategy of an algorithm's rollouts: its parts decide what is played, kept and reused."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from textenv.algos.config import check_integer
from textenv.algos.strategies.protocols import (
    SLOTS,
    Generation,
    Prompts,
    Reuse,
    Selection,
    Setup,
    StrategyPart,
    make_title,
)
from textenv.algos.strategies.registry import make_part
from textenv.errors import ConfigError, ConfigTypeError, DataError, unknown

_UNIFORM, _CHAINS = Prompts(), Generation()


@dataclass(frozen=True)
class Strategy:
    """How rollouts are made: the size of their groups, and the parts that act on them.

    Use a strategy whose parts remember something with one runner only.

    Raises:
        ConfigError: for groups of fewer than one trajectory, or of a size that a part refuses.
        ConfigTypeError: for a part in a slot of another kind.
    """

    name: str
    num_generations: int = 1
    """How many trajectories start from each starting point; together they are a group."""
    prompts: Prompts = _UNIFORM
    """Chooses the starting points; by default in the uniform order."""
    generation: Generation = _CHAINS
    """Plays the episodes; by default independently of each other."""
    selection: tuple[Selection, ...] = ()
    """Parts that decide what is kept, one after another; by default everything is."""
    reuse: tuple[Reuse, ...] = ()
    """Parts that decide what else is trained on, and with which weights; by default none."""

    def __post_init__(self) -> None:
        check_integer("num_generations", self.num_generations, 1)
        for slot, kind in SLOTS.items():
            held = getattr(self, slot)
            for part in held if slot in ("selection", "reuse") else (held,):
                if not isinstance(part, kind):
                    raise ConfigTypeError(
                        f"{slot} takes parts of kind {kind.__name__}, got {part!r}"
                    )
        for part in self.parts:
            try:
                part.check(self.num_generations)
            except ConfigError as error:
                raise ConfigError(f"strategy part {part.title!r}: {error}") from error

    @property
    def parts(self) -> list[StrategyPart]:
        """The parts that do something, in the order in which they act."""
        every = (self.prompts, self.generation, *self.selection, *self.reuse)
        return [part for part in every if type(part) not in SLOTS.values()]

    @property
    def rounds(self) -> int:
        """The most rounds in which one rollout draws prompts."""
        return max((part.rounds for part in self.selection), default=1)

    @property
    def oversampling(self) -> int:
        """How many times the groups of a rollout a round may play, at most."""
        return max((part.oversampling for part in self.selection), default=1)

    def ask(self, missing: int, played: int) -> int:
        """How many groups the next round plays, see `Selection.ask`."""
        for part in self.selection:
            missing = part.ask(missing, played)
        return missing

    def describe(self) -> str:
        """The strategy in words, for the console and for messages."""
        titles = ", ".join(part.title for part in self.parts) or "no parts"
        return f"{self.name}, groups of {self.num_generations}, {titles}"

    def prepare(self, setup: Setup) -> None:
        """Prepare all parts, before anything is generated.

        Raises:
            ConfigError: if one cannot be used with this environment or policy.
        """
        for part in self.parts:
            try:
                part.prepare(setup)
            except ConfigError as error:
                raise ConfigError(f"strategy part {part.title!r}: {error}") from error

    def metrics(self) -> dict[str, float]:
        """The metrics of its parts, as ``strategy/{part}/{metric}``."""
        return {
            f"strategy/{part.name or type(part).__qualname__}/{name}": value
            for part in self.parts
            for name, value in part.metrics().items()
        }

    def for_workers(self) -> Strategy:
        """The strategy of a worker process, which plays and does nothing else."""
        return replace(self, prompts=_UNIFORM, selection=(), reuse=())

    def state(self) -> dict[str, Any]:
        """Its parts, their settings, and what they remember, in JSON's types."""
        return {
            "name": self.name,
            "num_generations": self.num_generations,
            "parts": [{**_identity(part), "state": part.state()} for part in self.parts],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave.

        Raises:
            ConfigError: if the state is of a strategy with other parts or settings; names both.
            DataError: if it is not the state of a strategy.
        """
        try:
            theirs = [{"part": row["part"], "settings": row["settings"]} for row in state["parts"]]
            facts = (state["name"], state["num_generations"], theirs)
            states = [row["state"] for row in state["parts"]]
        except (KeyError, TypeError) as error:
            raise DataError(f"not the state of a strategy: {error!r}") from error
        mine = (self.name, self.num_generations, [_identity(part) for part in self.parts])
        if facts != mine:
            titles = ", ".join(make_title(row["part"], row["settings"]) for row in theirs)
            raise ConfigError(
                f"the state is of another strategy ({facts[0]}, groups of {facts[1]}, "
                f"{titles or 'no parts'}); this one is {self.describe()}"
            )
        for part, saved in zip(self.parts, states):
            part.load_state(saved)


def _identity(part: StrategyPart) -> dict[str, Any]:
    return {"part": part.name or type(part).__qualname__, "settings": part.plain_settings}


_DEFAULTS: dict[str, dict[str, Any]] = {
    "grpo": {"num_generations": 8},  # trajectories that are compared within their group
    "ppo": {},  # single episodes, judged by a critic
}


def create_strategy(
    name: str, *, parts: Iterable[str | StrategyPart] = (), **settings: Any
) -> Strategy:
    """Make the strategy of an algorithm, with that algorithm's defaults.

    Args:
        name: ``"grpo"`` (groups of 8) or ``"ppo"`` (no groups).
        parts: names with settings (``"dapo:cap=4"``), or parts that are made already. Parts of one
            slot act in the given order.
        settings: fields of `Strategy`.

    Raises:
        ConfigError: for an unknown name, part or setting, a value out of range, or two parts for
            the prompts or the generation.
    """
    if name not in _DEFAULTS:
        raise ConfigError(unknown("strategy", name, _DEFAULTS))
    if isinstance(parts, str):
        raise ConfigTypeError(f"parts must be a list of parts, got the text {parts!r}")
    slots: dict[str, list[StrategyPart]] = {}
    for part in map(make_part, parts):
        slots.setdefault(part.slot, []).append(part)
    for slot in ("prompts", "generation"):
        if len(slots.get(slot, ())) > 1:
            titles = " and ".join(repr(part.title) for part in slots[slot])
            raise ConfigError(f"a strategy has one part for its {slot}, got {titles}")
    filled = {
        slot: tuple(held) if slot in ("selection", "reuse") else held[0]
        for slot, held in slots.items()
    }
    if both := filled.keys() & settings.keys():
        raise ConfigError(
            f"strategy {name!r}: {', '.join(sorted(both))} given twice, also by parts"
        )
    try:
        return Strategy(name, **{**_DEFAULTS[name], **filled, **settings})
    except TypeError as error:
        if isinstance(error, ConfigTypeError):
            raise
        raise ConfigError(f"strategy {name!r}: {error}") from error
