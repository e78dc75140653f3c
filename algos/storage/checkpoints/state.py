"""What an object remembers, as NumPy arrays and as values of JSON, each with a name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from textenv.errors import DataError


@dataclass(frozen=True)
class State:
    """What an object remembers, for a checkpoint.

    An object with a memory offers ``state()``, which gives a `State`, and ``load_state(state)``,
    after which it goes on as the one that gave the state would have. An object that consists of
    others joins their states, and gives each its part back.

    What a state holds must not change later, because it is written while the training goes on:
    copy lists and NumPy arrays that do. MLX's arrays do not change, and `as_numpy` in
    ``textenv.algos.lm.models.weights`` gives them without a copy (bfloat16 as uint16).
    """

    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Arrays by name, such as ``model/layers.0.weight``."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """Values by name: numbers, texts, True, False, None, lists, and dicts whose keys are texts.
    Whole numbers may be of any size, and fractions are kept to the last bit. A tuple comes back as
    a list."""

    @classmethod
    def joined(cls, parts: Mapping[str, State]) -> State:
        """The state of an object that consists of others.

        Args:
            parts: their states by name; `part` gives each of them back.
        """
        arrays = {
            f"{p}/{name}": a for p, state in parts.items() for name, a in state.arrays.items()
        }
        values = {
            f"{p}/{name}": v for p, state in parts.items() for name, v in state.values.items()
        }
        return cls(arrays, values)

    def part(self, name: str) -> State:
        """The state of a part that was joined under this name; empty if it remembered nothing."""
        prefix = f"{name}/"
        return State(
            {n.removeprefix(prefix): a for n, a in self.arrays.items() if n.startswith(prefix)},
            {n.removeprefix(prefix): v for n, v in self.values.items() if n.startswith(prefix)},
        )

    def array(self, name: str) -> np.ndarray:
        """An array.

        Raises:
            DataError: if there is none of this name.
        """
        if name not in self.arrays:
            raise DataError(f"the state has no array {name!r}: it is of another kind of training")
        return self.arrays[name]

    def value(self, name: str) -> Any:
        """A value.

        Raises:
            DataError: if there is none of this name.
        """
        if name not in self.values:
            raise DataError(f"the state has no value {name!r}: it is of another kind of training")
        return self.values[name]


def save_rng(rng: np.random.Generator) -> dict[str, Any]:
    """The state of a random generator, in JSON's types."""
    return dict(rng.bit_generator.state)


def load_rng(rng: np.random.Generator, state: dict[str, Any]) -> None:
    """Set a random generator to a state that `save_rng` gave.

    Raises:
        DataError: if the state is not one of such a generator.
    """
    try:
        rng.bit_generator.state = state
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"not the state of a random generator: {error!r}") from error
