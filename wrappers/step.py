"""`DictStep` and `TupleStep`: convert between step results as a dict and as Gymnasium's tuple."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import gymnasium as gym
import numpy as np

STEP_KEYS = ("observation", "reward", "terminated", "truncated", "info")


class Step(TypedDict):
    """The result of a step as a dict, as the rollout loop uses it."""

    observation: Any
    reward: Any
    terminated: Any
    truncated: Any
    info: dict[str, Any]


def standardize_step(result: Any) -> Step:
    """Check that a step result is a dict with the five keys, and return it in standard form.

    The flags of a single environment become plain bools. Those of a vector environment stay
    arrays. Other keys are left out.

    Raises:
        TypeError: for a tuple or anything else that is not a dict, or for a flag of a wrong type.
        KeyError: for a missing key; names it.
    """
    if not isinstance(result, Mapping):
        raise TypeError(
            f"step must return a dict with keys {', '.join(STEP_KEYS)}, got "
            f"{type(result).__name__}; wrap a Gymnasium environment in DictStep"
        )
    for key in STEP_KEYS:
        if key not in result:
            raise KeyError(f"step result has no {key!r}; it has {', '.join(map(repr, result))}")
    return Step(
        observation=result["observation"],
        reward=result["reward"],
        terminated=_flag("terminated", result["terminated"]),
        truncated=_flag("truncated", result["truncated"]),
        info=result["info"],
    )


def standardize_reset(result: Any) -> dict[str, Any]:
    """Check that a reset result is a dict with ``observation`` and ``info``, and return these.

    Raises:
        TypeError: for a tuple or anything else that is not a dict.
        KeyError: for a missing key; names it.
    """
    if not isinstance(result, Mapping):
        raise TypeError(
            "reset must return a dict with keys observation, info, got "
            f"{type(result).__name__}; wrap a Gymnasium environment in DictStep"
        )
    for key in ("observation", "info"):
        if key not in result:
            raise KeyError(f"reset result has no {key!r}; it has {', '.join(map(repr, result))}")
    return {"observation": result["observation"], "info": result["info"]}


def _flag(name: str, value: Any) -> Any:
    if getattr(value, "ndim", 0):
        return value
    if isinstance(value, (bool, int, np.bool_, np.integer)) or hasattr(value, "ndim"):
        return bool(value)
    raise TypeError(f"{name} must be a flag or an array of flags, got {value!r}")


class DictStep:
    """Makes the step results of a Gymnasium environment, single or vector, dicts.

    It is not a ``gym.Env``, because code that expects the five values of a Gymnasium step would
    unpack the dict's keys instead, without an error.

    Args:
        env: the environment to wrap.

    Raises:
        TypeError: if ``env`` is not a Gymnasium environment.

    Example:
        >>> import gymnasium as gym
        >>> env = DictStep(gym.make("CartPole-v1"))
        >>> sorted(env.reset(seed=0))
        ['info', 'observation']
        >>> env.step(0)["terminated"]
        False
    """

    def __init__(self, env: gym.Env | gym.vector.VectorEnv):
        if not isinstance(env, (gym.Env, gym.vector.VectorEnv)):
            raise TypeError(f"DictStep wraps a Gymnasium environment, got {type(env).__name__}")
        self.env = env
        self.observation_space = env.observation_space
        self.action_space = env.action_space

    @property
    def spec(self) -> Any:
        """The environment's spec."""
        return self.env.spec

    @property
    def metadata(self) -> dict[str, Any]:
        """The environment's metadata."""
        return self.env.metadata

    @property
    def render_mode(self) -> str | None:
        """The environment's render mode."""
        return self.env.render_mode

    @property
    def unwrapped(self) -> Any:
        """The innermost environment."""
        return self.env.unwrapped

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> dict[str, Any]:
        """Start an episode; returns ``{"observation", "info"}``."""
        observation, info = self.env.reset(seed=seed, options=options)
        return {"observation": observation, "info": info}

    def step(self, action: Any) -> Step:
        """Take an action; returns the dict of `standardize_step`.

        Raises:
            TypeError: if the environment's step does not return five values in a tuple.
        """
        result = self.env.step(action)
        if not isinstance(result, tuple) or len(result) != len(STEP_KEYS):
            raise TypeError(
                f"{self.env} must return the five values {', '.join(STEP_KEYS)} from step, "
                f"got {type(result).__name__}: {result!r:.80}"
            )
        return standardize_step(dict(zip(STEP_KEYS, result)))

    def render(self) -> Any:
        """Render the environment."""
        return self.env.render()

    def close(self) -> None:
        """Close the environment."""
        self.env.close()


class TupleStep(gym.Env):
    """Makes any environment whose steps are dicts a real ``gymnasium.Env``.

    Args:
        env: an object with ``observation_space``, ``action_space``, ``reset(seed=, options=)``
            that returns ``{"observation", "info"}``, and ``step(action)`` that returns the dict of
            `standardize_step`.
    """

    def __init__(self, env: Any):
        self.env = env
        self.observation_space = env.observation_space
        self.action_space = env.action_space
        self.metadata = getattr(env, "metadata", {})
        self.render_mode = getattr(env, "render_mode", None)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode; returns ``(observation, info)``."""
        super().reset(seed=seed)
        start = standardize_reset(self.env.reset(seed=seed, options=options))
        return start["observation"], start["info"]

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take an action; returns ``(observation, reward, terminated, truncated, info)``."""
        step = standardize_step(self.env.step(action))
        return (
            step["observation"],
            step["reward"],
            step["terminated"],
            step["truncated"],
            step["info"],
        )

    def render(self) -> Any:
        """Render the environment; None if it has no ``render``."""
        return self.env.render() if hasattr(self.env, "render") else None

    def close(self) -> None:
        """Close the environment, if it has ``close``."""
        if hasattr(self.env, "close"):
            self.env.close()
