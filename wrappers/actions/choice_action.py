"""`ChoiceAction`: lets an agent choose one of several answers instead of writing a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import InvalidAction
from gymnasium.spaces import Discrete
from gymnasium.utils import RecordConstructorArgs

from textenv.errors import ConfigError, ConfigTypeError, DataError
from textenv.tasks.base import check_range
from textenv.wrappers.text import require_text


class ChoiceAction(gym.Wrapper, RecordConstructorArgs):
    """Takes the index of an answer in a list, which is fixed or comes from each example.

    If each example has its own list, ``info`` has ``choices`` (the list) at a reset, and
    ``action_mask`` at every step, which is 1 for each index with an answer. `ActionMask` uses
    this mask. An index past the end of the list is an error.

    It wraps a single environment. For a vector environment, ``gym.make_vec(...,
    vectorization_mode="sync", wrappers=[...])`` wraps each of its environments.

    Args:
        env: an environment whose action is text.
        choices: the answers, or the key of each example's own list, such as ``"choices"``.
        n: size of the action space, if each example has its own list. None is the length of the
            longest list, for which all examples are read once. A generated task has no finite
            number of examples and needs ``n``.

    Example:
        >>> import gymnasium as gym
        >>> env = gym.make("textenv:TextGen-v0", prompts=["2+2?"], examples=[{"answer": "4"}],
        ...                reward_fn="exact_match")
        >>> env = ChoiceAction(env, ["3", "4"])
        >>> _ = env.reset(seed=0)
        >>> env.step(1)[1]
        1.0
    """

    def __init__(self, env: gym.Env, choices: Sequence[str] | str, n: int | None = None):
        RecordConstructorArgs.__init__(self, choices=choices, n=n)
        gym.Wrapper.__init__(self, env)
        require_text(env, "ChoiceAction", "action")
        if isinstance(choices, str):
            self._key: str | None = choices
            self._choices: list[str] = []
            size = self._longest() if n is None else n
            check_range("n", size, 1, 2**31 - 1)
        else:
            if n is not None:
                raise ConfigError(f"n is only for the key of each example's own list, got n={n}")
            self._key = None
            self._choices = _checked(choices, "choices")
            size = len(self._choices)
        self._size = size
        self.action_space = Discrete(size)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode.

        Raises:
            DataError: if the example has no such list, or a list of more than ``n`` answers.
        """
        observation, info = self.env.reset(seed=seed, options=options)
        if self._key is None:
            return observation, info
        self._choices = self._own(getattr(self.env.unwrapped, "example", None), "the example")
        if len(self._choices) > self._size:
            raise DataError(
                f"the example has {len(self._choices)} {self._key}, but n is {self._size}"
            )
        return observation, {**info, "choices": list(self._choices), "action_mask": self._mask()}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take the answer with this index as the action.

        Raises:
            InvalidAction: if there is no answer with this index.
        """
        if not self.action_space.contains(action) or int(action) >= len(self._choices):
            raise InvalidAction(
                f"action must be an integer from 0 to {len(self._choices) - 1}, one for each "
                f"choice, got {action!r}"
            )
        observation, reward, terminated, truncated, info = self.env.step(self._choices[int(action)])
        if self._key is not None:
            info = {**info, "action_mask": self._mask()}
        return observation, reward, terminated, truncated, info

    def _mask(self) -> np.ndarray:
        return (np.arange(self._size) < len(self._choices)).astype(np.int8)

    def _longest(self) -> int:
        task = getattr(self.env.unwrapped, "task", None)
        size = getattr(task, "size", None)
        if task is None or size is None:
            raise ConfigError(
                f"ChoiceAction cannot find the longest {self._key!r} of all examples: this "
                "environment has no finite list of examples; give n, the length of the longest"
            )
        return max(len(self._own(task.example(i), f"example {i}")) for i in range(size))

    def _own(self, example: Any, name: str) -> list[str]:
        if not isinstance(example, dict) or self._key not in example:
            keys = ", ".join(map(repr, example)) if isinstance(example, dict) else "no keys"
            raise DataError(f"{name} has no {self._key!r}, which ChoiceAction needs; it has {keys}")
        return _checked(example[self._key], f"{self._key!r} of {name}")


def _checked(choices: Any, name: str) -> list[str]:
    if isinstance(choices, str) or not isinstance(choices, Sequence):
        raise ConfigTypeError(f"{name} must be a list of text, got {type(choices).__name__}")
    if not choices:
        raise ConfigError(f"{name} must hold at least one answer, got none")
    for choice in choices:
        if not isinstance(choice, str):
            raise ConfigTypeError(f"{name} must be text, got {choice!r} ({type(choice).__name__})")
    return list(choices)
