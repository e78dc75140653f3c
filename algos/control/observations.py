"""Turns control observations into flat rows, and refuses spaces that a network cannot take.

Shapes: B observations, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from textenv.errors import ConfigError

_OBSERVATION_HELP = {
    spaces.Text: "textenv.wrappers.HashedBagOfWords, ByteObservation or TokenizeObservation",
    spaces.Discrete: "gymnasium.wrappers.FlattenObservation",
    spaces.MultiDiscrete: "gymnasium.wrappers.FlattenObservation",
    spaces.MultiBinary: "gymnasium.wrappers.FlattenObservation",
    spaces.Tuple: "gymnasium.wrappers.FlattenObservation",
    spaces.Dict: "gymnasium.wrappers.FlattenObservation",
}
_ACTION_HELP = {
    spaces.Text: "textenv.wrappers.ChoiceAction or DetokenizeAction",
    spaces.MultiBinary: "gymnasium.wrappers.TransformAction, onto MultiDiscrete([2, ...])",
    spaces.Dict: "gymnasium.wrappers.TransformAction, onto a Box or MultiDiscrete",
    spaces.Tuple: "gymnasium.wrappers.TransformAction, onto a Box or MultiDiscrete",
}


class ObservationEncoder:
    """Turns observations of a Box, or of a flat Dict of Box, into float32 rows.

    The entries of a Dict follow each other in the order of their sorted keys.

    Args:
        space: the observation space of a single environment.

    Raises:
        ConfigError: for another kind of space, naming a wrapper that helps, or one without numbers.
    """

    def __init__(self, space: spaces.Space):
        if isinstance(space, spaces.Dict) and all(
            isinstance(part, spaces.Box) for part in space.values()
        ):
            self._keys: list[str] | None = sorted(space)
            parts = [space[key] for key in self._keys]
        elif isinstance(space, spaces.Box):
            self._keys, parts = None, [space]
        else:
            raise ConfigError(_refusal("observation", space, _OBSERVATION_HELP))
        self.space = space
        self._shapes = [part.shape or () for part in parts]
        self.size = sum(int(np.prod(shape)) for shape in self._shapes)
        """D, the number of features."""
        if not self.size:
            raise ConfigError(f"observations must hold one number or more, got {space!r:.120}")

    def takes(self, space: spaces.Space) -> bool:
        """Whether observations of another space have the same entries and shapes as here."""
        try:
            other = ObservationEncoder(space)
        except ConfigError:
            return False
        return (other._keys, other._shapes) == (self._keys, self._shapes)

    def is_single(self, observation: Any) -> bool:
        """Whether this is one observation, and not a batch of them."""
        part = observation if self._keys is None else observation[self._keys[0]]
        return np.ndim(part) == len(self._shapes[0])

    def __call__(self, observation: Any) -> np.ndarray:
        """Turn an observation, or a batch as a vector environment gives it, into rows (B, D)."""
        if self._keys is None:
            return np.asarray(observation, np.float32).reshape(-1, self.size)
        parts = [_rows(observation[key], shape) for key, shape in zip(self._keys, self._shapes)]
        return np.concatenate(parts, axis=1)

    def rows(self, observations: Sequence[Any]) -> np.ndarray:
        """Turn a list of single observations into rows (B, D)."""
        if self._keys is None:
            return np.asarray(observations, np.float32).reshape(-1, self.size)
        return np.concatenate([self(observation) for observation in observations])


def _rows(part: Any, shape: tuple[int, ...]) -> np.ndarray:
    """An entry of a Dict, or a batch of it, as rows; the entry may have no items."""
    array = np.asarray(part, np.float32)
    batch = array.shape[: array.ndim - len(shape)]
    return array.reshape(int(np.prod(batch)), int(np.prod(shape)))


def refuse_action_space(space: spaces.Space) -> ConfigError:
    """Make the error for an action space that no distribution here covers."""
    return ConfigError(_refusal("action", space, _ACTION_HELP))


def _refusal(kind: str, space: spaces.Space, help_: dict[type, str]) -> str:
    known = (
        "Box, or a flat Dict of Box" if kind == "observation" else "Discrete, MultiDiscrete or Box"
    )
    wrapper = next((text for cls, text in help_.items() if isinstance(space, cls)), None)
    hint = f"; {wrapper} makes it one of these" if wrapper else ""
    return f"{kind}s must be {known}, got {space!r:.120}{hint}"
