"""How rollouts are generated for an algorithm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from textenv.errors import ConfigError, unknown


@dataclass(frozen=True)
class Strategy:
    """What a rollout is made of.

    Raises:
        ConfigError: for fewer than one trajectory a group.
    """

    name: str
    num_generations: int = 1
    """Trajectories from each starting point (a group)."""

    def __post_init__(self) -> None:
        value = self.num_generations
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"num_generations must be an integer >= 1, got {value!r}")


_DEFAULTS: dict[str, dict[str, Any]] = {
    "grpo": {"num_generations": 8},  # groups, compared within
    "ppo": {},  # single episodes, judged by a critic
}


def create_strategy(name: str, **settings: Any) -> Strategy:
    """The strategy of an algorithm, with its defaults.

    Args:
        name: ``"grpo"`` (groups of 8) or ``"ppo"`` (no groups).
        settings: fields of `Strategy`.

    Raises:
        ConfigError: for an unknown name or setting, or a value out of range.
    """
    if name not in _DEFAULTS:
        raise ConfigError(unknown("strategy", name, _DEFAULTS))
    try:
        return Strategy(name, **{**_DEFAULTS[name], **settings})
    except TypeError as error:
        raise ConfigError(f"strategy {name!r}: {error}") from error
