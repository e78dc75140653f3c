"""Registers reward functions by name, so that a command line or a file can name them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

from textenv.errors import ConfigError, unknown

RewardFunction = Callable[..., Any]
"""``fn(prompt: str, completion: str, example: dict, **kwargs) -> float | dict[str, float]``."""

Check = Callable[[Mapping[str, Any]], "str | None"]
"""Says what is wrong with an example, or returns None."""

_registry: dict[str, RewardFunction] = {}


@overload
def reward(function: RewardFunction, /) -> RewardFunction: ...
@overload
def reward(
    name: str | None = None,
    /,
    *,
    requires: Sequence[str] = (),
    verifies: bool = False,
    batch: bool = False,
    check: Check | None = None,
    answer: bool = False,
) -> Callable[[RewardFunction], RewardFunction]: ...
def reward(
    name: str | RewardFunction | None = None,
    /,
    *,
    requires: Sequence[str] = (),
    verifies: bool = False,
    batch: bool = False,
    check: Check | None = None,
    answer: bool = False,
) -> Any:
    """Decorator that registers a reward function, so that ``reward_fn="its_name"`` finds it.

    It is used without arguments (``@textenv.reward``) or with them (``@textenv.reward("short")``).

    Args:
        name: the name; by default the name of the function.
        requires: keys that every example must have; checked before the first episode.
        verifies: whether 1.0 means that the completion is correct; this sets
            ``info["is_correct"]``. If the function returns a dict, its component ``"correct"``
            decides, whatever this is; without one, the component of the function's own name, or
            else the sum of the components.
        batch: whether the function takes lists of prompts, completions and examples, and returns
            a list of rewards. A vector environment passes the completions of all its
            environments, a rollout those of one turn of all its episodes, and a single
            environment passes lists of one.
        check: says what is wrong with an example, or returns None. Every row of a dataset is
            checked before the first episode.
        answer: whether the function scores the answer that ``extract=`` of an environment takes
            out of a completion. A completion without an answer then scores 0, without a call.
            Other functions get the whole completion as it was written.

    Raises:
        ConfigError: if another function is registered under the name.
    """

    def register(function: RewardFunction) -> RewardFunction:
        key = name if isinstance(name, str) else function.__name__
        if key == "correct":
            raise ConfigError("reward function 'correct' is the task's own verifier: rename yours")
        if _registry.get(key, function) is not function:
            raise ConfigError(f"reward function {key!r} is registered already")
        function.requires = tuple(requires)  # type: ignore[attr-defined]
        function.verifies = verifies  # type: ignore[attr-defined]
        function.batch = batch  # type: ignore[attr-defined]
        function.check = check  # type: ignore[attr-defined]
        function.answer = answer  # type: ignore[attr-defined]
        function.reward_name = key  # type: ignore[attr-defined]
        _registry[key] = function
        return function

    return register(name) if callable(name) else register


def names() -> list[str]:
    """Names of all registered reward functions."""
    return sorted(_registry)


def get(name: str) -> RewardFunction:
    """The registered reward function with this name.

    Raises:
        ConfigError: for an unknown name.
    """
    if name not in _registry:
        raise ConfigError(unknown("reward function", name, names()))
    return _registry[name]
