"""Reads actions that are typed as numbers, for spaces of one number and of several."""

from __future__ import annotations

import math
import re
from itertools import groupby
from typing import Any

import gymnasium as gym
import numpy as np

from textenv.algos.cli.shared.escape import count, one_line
from textenv.errors import ConfigError
from textenv.wrappers.actions.action_mask import choice_counts, parse_mask

_DIGITS = 10  # with no more actions than digits, a digit is an action, without Enter
_LISTED = 40
_WHOLE = re.compile(r"[-+]?[0-9]{1,20}")  # a longer one is no action, and may be too long for int
_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")  # no nan, no inf
_Flat = gym.spaces.MultiDiscrete | gym.spaces.MultiBinary | gym.spaces.Box


class Refused(Exception):
    """What was typed is no action; the message says what was expected."""


class TypedActions:
    """The actions of a space as a person types them, and how they are explained.

    An action is one number for Discrete. For MultiDiscrete, MultiBinary and Box it is as many
    numbers as the space has, in C order, with spaces between them.

    Args:
        space: the action space.
        name: what the environment is called in an error.

    Raises:
        ConfigError: for a space whose actions are not numbers, or are several parts of them.

    Example:
        >>> import gymnasium
        >>> actions = TypedActions(gymnasium.spaces.MultiBinary(2), "Game-v0")
        >>> actions.explained
        '2 whole numbers from 0 to 1 with spaces between them, then Enter'
        >>> actions.read("1 0")
        array([1, 0], dtype=int8)
    """

    def __init__(self, space: gym.Space, name: str):
        if not isinstance(space, gym.spaces.Discrete | _Flat):
            raise ConfigError(
                "play takes actions of text, Discrete, MultiDiscrete, MultiBinary and Box; "
                f"{name} has {one_line(str(space)):.200}: wrap it by "
                "gymnasium.wrappers.TransformAction into one of these, and give --env the id of "
                "the wrapped one"
            )
        self._space = space
        self._single = isinstance(space, gym.spaces.Discrete)
        self._whole = not np.issubdtype(space.dtype, np.floating)
        bounds = _bounds(space)
        self._low, self._high = ([_plain(bound) for bound in end] for end in bounds)
        self._ranges = [_range(low, high) for low, high in zip(*bounds)]

    @property
    def by_key(self) -> bool:
        """Whether every action is a digit, so that it needs no Enter."""
        return self._single and self._low[0] >= 0 and self._high[0] < _DIGITS

    @property
    def explained(self) -> str:
        """What is to be typed, with the number of numbers and their bounds."""
        if self._single:
            return f"{self._low[0]} to {self._high[0]}{'' if self.by_key else ', then Enter'}"
        kind = "whole number" if self._whole else "number"
        number, runs = len(self._ranges), self._runs()
        if number == 1:
            return f"a {kind} {self._ranges[0]}, then Enter"
        same = f" {self._ranges[0]}" if len(runs) == 1 else ""
        shape = self._space.shape or ()
        order = f" (shape {shape}, row by row)" if len(shape) > 1 else ""
        text = f"{count(number, kind)}{same} with spaces between them{order}, then Enter"
        rest = f" and {len(runs) - _LISTED} more ranges" if len(runs) > _LISTED else ""
        return text if len(runs) < 2 else f"{text}: {', '.join(runs[:_LISTED])}{rest}"

    @property
    def first(self) -> int | None:
        """The first action of Discrete; None for other spaces, whose actions are not counted."""
        return int(self._low[0]) if self._single else None

    def read(self, typed: str, mask: Any = None) -> Any:
        """The action that was typed, in the space's type and shape.

        Args:
            typed: what was typed.
            mask: the ``action_mask`` of the observation, if it has one. Box has no masks.

        Raises:
            Refused: if it is no action, or not one that is allowed.
            DataError: for a mask that does not fit the space.
        """
        words = [typed] if self._single else typed.split()
        if len(words) != len(self._ranges):
            raise Refused(f"expected {self._counted()}, got {len(words)}")
        values = [self._number(place, word) for place, word in enumerate(words)]
        if mask is not None and not isinstance(self._space, gym.spaces.Box):
            self._check(values, mask)
        if self._single:
            return self._space.dtype.type(values[0])  # type: ignore[union-attr]
        return np.array(values, self._space.dtype).reshape(self._space.shape)

    def _number(self, place: int, word: str) -> int | float:
        """A word as the number at a place of the action."""
        if not (_WHOLE if self._whole else _NUMBER).fullmatch(word):
            raise Refused(f"{self._expected(place)}, got {word!r:.80}")
        value: int | float = int(word) if self._whole else self._rounded(word)
        if not self._low[place] <= value <= self._high[place]:
            raise Refused(f"{self._expected(place)}, got {word:.80}")
        if math.isinf(value):
            raise Refused(
                f"{self._expected(place)}, got {word:.80}, which {self._space.dtype} does not hold"
            )
        return value

    def _rounded(self, word: str) -> float:
        """A number as the space's type holds it, so that a bound can be typed as it is shown."""
        with np.errstate(over="ignore"):
            return float(np.float64(word).astype(self._space.dtype))

    def _check(self, values: list[int | float], mask: Any) -> None:
        """Refuse what a mask does not allow."""
        counts = choice_counts(self._space)
        parts = np.split(parse_mask(mask, self._space), np.cumsum(counts)[:-1])
        for place, (value, low, part) in enumerate(zip(values, self._low, parts)):
            if not part[int(value - low)]:
                allowed = [int(i + low) for i in np.flatnonzero(part)]
                rest = f" and {len(allowed) - _LISTED} more" if len(allowed) > _LISTED else ""
                what = f"action {value}" if self._single else f"number {place + 1}: {value}"
                listed = ", ".join(map(str, allowed[:_LISTED]))
                raise Refused(f"{what} is not allowed here; allowed: {listed}{rest}")

    def _expected(self, place: int) -> str:
        if self._single:
            return f"expected an action {self._ranges[0]}"
        where = f"number {place + 1}: " if len(self._ranges) > 1 else ""
        return f"{where}expected a {'whole ' * self._whole}number {self._ranges[place]}"

    def _counted(self) -> str:
        number, between = len(self._ranges), " with spaces between them"
        return f"{count(number, 'number')}{between if number > 1 else ''}"

    def _runs(self) -> list[str]:
        """The ranges of the numbers; neighbours that have the same one are one."""
        runs, place = [], 1
        for text, group in groupby(self._ranges):
            last = place + len(list(group)) - 1
            who = f"number {place}" if last == place else f"numbers {place} to {last}"
            runs.append(f"{who} {text}")
            place = last + 1
        return runs


def _bounds(space: gym.spaces.Discrete | _Flat) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest of each number, in C order and in the space's type."""
    if isinstance(space, gym.spaces.Discrete):
        return np.array([space.start]), np.array([space.start + space.n - 1])
    if isinstance(space, gym.spaces.MultiDiscrete):
        return space.start.reshape(-1), (space.start + space.nvec - 1).reshape(-1)
    if isinstance(space, gym.spaces.MultiBinary):
        size = math.prod(space.shape)
        return np.zeros(size, space.dtype), np.ones(size, space.dtype)
    return space.low.reshape(-1), space.high.reshape(-1)


def _plain(bound: Any) -> int | float:
    value: int | float = bound.item()
    return int(value) if isinstance(value, bool) else value


def _range(low: Any, high: Any) -> str:
    """A number's range in words; a bound has as few digits as its type needs to give it back."""
    if np.isinf(low) and np.isinf(high):
        return "of any size"
    if np.isinf(high):
        return f"from {_short(low)} up"
    return f"up to {_short(high)}" if np.isinf(low) else f"from {_short(low)} to {_short(high)}"


def _short(bound: Any) -> str:
    return str(int(bound) if bound.dtype == bool else bound).removesuffix(".0")
