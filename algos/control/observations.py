"""Turns control observations into flat rows, and refuses spaces that a network cannot take.

Shapes: B observations, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from textenv.errors import ConfigError, DataError

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
        """Turn a list of single observations into rows (B, D).

        Raises:
            DataError: if one is not of the space; says which, and what it is.
        """
        if self._keys is None:
            return stack_numbers(observations, self._shapes[0], "observation").astype(np.float32)
        for index, observation in enumerate(observations):
            if not isinstance(observation, Mapping) or not set(self._keys) <= observation.keys():
                raise DataError(
                    f"observation {index}: expected a dict of {self._keys}, got {observation!r:.80}"
                )
        parts = [
            stack_numbers([o[key] for o in observations], shape, f"{key!r} of observation")
            for key, shape in zip(self._keys, self._shapes)
        ]
        return np.concatenate(parts, axis=1).astype(np.float32)


def _rows(part: Any, shape: tuple[int, ...]) -> np.ndarray:
    """An entry of a Dict, or a batch of it, as rows; the entry may have no items."""
    array = np.asarray(part, np.float32)
    batch = array.shape[: array.ndim - len(shape)]
    return array.reshape(int(np.prod(batch)), int(np.prod(shape)))


def stack_numbers(
    parts: Sequence[Any], shape: tuple[int, ...], what: str, kinds: str = "biuf"
) -> np.ndarray:
    """Stack arrays of one shape to an array with a row for each, (B, size of the shape).

    Args:
        parts: the arrays, or numbers, or nested lists of these.
        shape: the shape that each must have.
        what: what they are, for the message.
        kinds: the kinds that NumPy's type may be of, by their letters.

    Raises:
        DataError: if one has another shape or type; says which, and what it is.
    """

    def fits(value: Any, shape: tuple[int, ...]) -> bool:
        array = _array(value)
        return array is not None and array.dtype.kind in kinds and array.shape == shape

    if not fits(parts, (len(parts), *shape)):
        numbers = "numbers" if "f" in kinds else "integers"
        for index, part in enumerate(parts):
            if not fits(part, shape):
                raise DataError(
                    f"{what} {index}: expected {numbers} of shape {shape}, got {part!r:.80}"
                )
    return np.asarray(parts).reshape(len(parts), int(np.prod(shape)))


def _array(value: Any) -> np.ndarray | None:
    try:
        return np.asarray(value)
    except ValueError:  # lists of different lengths
        return None


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
