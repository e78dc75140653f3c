"""Reward functions by name, and how several make one reward.

A reward function is ``fn(prompt, completion, example, **kwargs) -> float | dict[str, float]``;
a dict is reward components. The reward is the weighted sum of all components, and each one
is logged by name.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

import numpy as np

from textenv.errors import ConfigError, ConfigTypeError, RewardError, unknown

RewardFunction = Callable[..., "float | dict[str, float]"]
"""``fn(prompt: str, completion: str, example: dict, **kwargs)``."""

RewardSpec = str | RewardFunction | Sequence["str | RewardFunction"]
"""A reward function, by name or itself, or several of them."""

_registry: dict[str, RewardFunction] = {}


@overload
def reward(function: RewardFunction, /) -> RewardFunction: ...
@overload
def reward(
    name: str | None = None, /, *, requires: Sequence[str] = (), verifies: bool = False
) -> Callable[[RewardFunction], RewardFunction]: ...
def reward(
    name: str | RewardFunction | None = None,
    /,
    *,
    requires: Sequence[str] = (),
    verifies: bool = False,
) -> Any:
    """Name a reward function, so that ``reward_fn="its_name"`` finds it.

    Used plain (``@textenv.reward``) or with arguments (``@textenv.reward("short")``).

    Args:
        name: the name; the function's own where none is given.
        requires: keys that every example must have; checked before the first episode.
        verifies: whether 1.0 means that the completion is right (sets ``info["is_correct"]``).

    Raises:
        ConfigError: where the name is taken by another function.
    """

    def register(function: RewardFunction) -> RewardFunction:
        key = name if isinstance(name, str) else function.__name__
        if key == "correct":
            raise ConfigError("the name 'correct' is taken by a task's own verifier")
        if _registry.get(key, function) is not function:
            raise ConfigError(f"reward function {key!r} is registered already")
        function.requires = tuple(requires)  # type: ignore[attr-defined]
        function.verifies = verifies  # type: ignore[attr-defined]
        _registry[key] = function
        return function

    return register(name) if callable(name) else register


def names() -> list[str]:
    """Names of the reward functions that are registered."""
    return sorted(_registry)


def get(name: str) -> RewardFunction:
    """The reward function with this name.

    Raises:
        ConfigError: for an unknown name.
    """
    if name not in _registry:
        raise ConfigError(unknown("reward function", name, names()))
    return _registry[name]


class Reward:
    """One or several reward functions as one, with every component kept.

    Args:
        spec: a function or a name, or a list of them. ``"correct"`` is the task's own verifier.
        weights: weight of each component by name; 1 where it is not named.
        verifier: the task's own scorer ``(example, completion) -> float``, if it has one.

    Raises:
        ConfigError: unknown name, a name twice, ``"correct"`` without a verifier.
        ConfigTypeError: something that is neither a name nor callable.
    """

    def __init__(
        self,
        spec: RewardSpec,
        weights: Mapping[str, float] | None = None,
        verifier: Callable[[dict, str], float | None] | None = None,
    ):
        parts = list(spec) if isinstance(spec, Sequence) and not isinstance(spec, str) else [spec]
        if not parts:
            raise ConfigError("reward_fn must hold at least one reward function, got none")
        self._functions: dict[str, RewardFunction] = {}
        for part in parts:
            name, function = _resolve(part, verifier)
            if name in self._functions:
                raise ConfigError(f"two reward functions are called {name!r}: rename one")
            self._functions[name] = function
        if weights is not None and not isinstance(weights, Mapping):
            raise ConfigTypeError(
                f"reward_weights must map component names to numbers, got {weights!r}"
            )
        self._weights = {name: _weight(name, w) for name, w in (weights or {}).items()}
        self.requires = sorted({k for f in self._functions.values() for k in _requires(f)})

    def __call__(
        self, prompt: str, completion: str, example: dict[str, Any]
    ) -> tuple[float, dict[str, float], bool | None]:
        """Score one completion.

        Returns:
            The weighted sum, the components by name (unweighted), and whether the completion
            is right where a verifier says so (else None).

        Raises:
            RewardError: where a function raises, or returns no finite number.
        """
        components: dict[str, float] = {}
        correct: bool | None = None
        for name, function in self._functions.items():
            try:
                result = function(prompt, completion, example)
            except RewardError:
                raise
            except Exception as error:  # the user's code: anything can come, and is passed on
                raise RewardError(
                    f"reward function {name!r} raised {type(error).__name__}: {error} "
                    f"(prompt {_short(prompt)}, completion {_short(completion)})"
                ) from error
            for key, value in _components(name, result, prompt):
                if key in components:
                    raise RewardError(f"two reward functions return a component {key!r}")
                components[key] = value
            if getattr(function, "verifies", False):
                correct = (correct is not False) and components.get(name, 0.0) >= 1.0
        if unknown := self._weights.keys() - components.keys():
            raise RewardError(
                f"reward_weights names {sorted(unknown)}, but the components are "
                f"{sorted(components)}"
            )
        total = float(sum(self._weights.get(k, 1.0) * v for k, v in components.items()))
        if not math.isfinite(total):
            raise RewardError(
                f"the components of {', '.join(self._functions)} sum to {total}; expected a finite "
                f"number: {components}"
            )
        return total, components, correct


def _resolve(
    part: Any, verifier: Callable[[dict, str], float | None] | None
) -> tuple[str, RewardFunction]:
    if part == "correct":
        if verifier is None:
            raise ConfigError(
                "reward_fn='correct' is a task's own verifier, and own prompts have none: "
                f"pass a function, or one of {', '.join(names())}"
            )
        return "correct", _task_score(verifier)
    if isinstance(part, str):
        return part, get(part)
    if callable(part):
        registered = (name for name, function in _registry.items() if function is part)
        return next(registered, getattr(part, "__name__", type(part).__name__)), part
    raise ConfigTypeError(
        f"reward_fn must be a function, a name, or a list of these, got {type(part).__name__}"
    )


def _task_score(verifier: Callable[[dict, str], float | None]) -> RewardFunction:
    def correct(prompt: str, completion: str, example: dict[str, Any]) -> Any:
        return verifier(example, completion)

    correct.verifies = True  # type: ignore[attr-defined]
    return correct


def _requires(function: RewardFunction) -> tuple[str, ...]:
    return getattr(function, "requires", ())


def _components(name: str, result: Any, prompt: str) -> list[tuple[str, float]]:
    if not isinstance(result, Mapping):
        return [(name, _finite(name, result, prompt))]
    if not result or not all(isinstance(key, str) for key in result):
        raise RewardError(
            f"reward function {name} returned {result!r}; expected components by name"
        )
    return [(key, _finite(f"{name}[{key!r}]", value, prompt)) for key, value in result.items()]


def _finite(name: str, value: Any, prompt: str) -> float:
    # NumPy's scalars register as numbers, but for its bool.
    if isinstance(value, (numbers.Real, np.bool_)):
        try:
            number = float(value)
        except OverflowError:  # an int too large
            number = math.inf
        if math.isfinite(number):
            return number
    shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}..."
    raise RewardError(
        f"reward function {name} returned {shown} ({type(value).__name__}) for prompt "
        f"{_short(prompt)}; expected a finite number"
    )


def _weight(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ConfigError(f"reward_weights[{name!r}] must be a finite number, got {value!r}")
    return float(value)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


from textenv.rewards import verifiers  # noqa: E402, F401  (registers the built-in functions)
