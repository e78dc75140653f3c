"""One shape for a step: the dict, and the way back to Gymnasium's five values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import gymnasium as gym
import numpy as np

STEP_KEYS = ("observation", "reward", "terminated", "truncated", "info")


class Step(TypedDict):
    """What every step of a rollout loop is."""

    observation: Any
    reward: Any
    terminated: Any
    truncated: Any
    info: dict[str, Any]


def standardize_step(result: Any) -> Step:
    """Check that a step result is the dict of five keys, and return it as that.

    Flags of a single environment become plain bools; those of a vector environment stay arrays.

    Raises:
        TypeError: for a tuple or anything else that is not a dict, or a flag that is none.
        KeyError: for a missing key, naming it.
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
    """Check that a reset gave the dict of ``observation`` and ``info``, and return it as that.

    Raises:
        TypeError: for a tuple or anything else that is not a dict.
        KeyError: for a missing key, naming it.
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
    """Steps of a Gymnasium environment, single or vector, as dicts.

    Not a ``gym.Env``: a dict of five keys unpacks as five values without an error, and the
    values would be the keys' names.

    Args:
        env: the environment to wrap.

    Raises:
        TypeError: where ``env`` is not a Gymnasium environment.

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
        """Start an episode: ``{"observation", "info"}``."""
        observation, info = self.env.reset(seed=seed, options=options)
        return {"observation": observation, "info": info}

    def step(self, action: Any) -> Step:
        """Take an action: ``{"observation", "reward", "terminated", "truncated", "info"}``."""
        result = self.env.step(action)
        if not isinstance(result, tuple) or len(result) != len(STEP_KEYS):
            raise TypeError(
                f"{self.env} must return the five values {', '.join(STEP_KEYS)} from step, "
                f"got {type(result).__name__}: {result!r:.80}"
            )
        return standardize_step(dict(zip(STEP_KEYS, result)))

    def render(self) -> Any:
        """What the environment renders."""
        return self.env.render()

    def close(self) -> None:
        """Close the environment."""
        self.env.close()


class TupleStep(gym.Env):
    """A real ``gymnasium.Env`` from any environment whose step returns such dicts.

    Args:
        env: has ``reset(seed=, options=)`` returning ``{"observation", "info"}``, ``step(action)``
            returning the dict of `standardize_step`, ``observation_space`` and ``action_space``.
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
        """Start an episode: ``(observation, info)``."""
        super().reset(seed=seed)
        start = standardize_reset(self.env.reset(seed=seed, options=options))
        return start["observation"], start["info"]

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take an action: ``(observation, reward, terminated, truncated, info)``."""
        step = standardize_step(self.env.step(action))
        return (
            step["observation"],
            step["reward"],
            step["terminated"],
            step["truncated"],
            step["info"],
        )

    def render(self) -> Any:
        """What the environment renders, where it can."""
        return self.env.render() if hasattr(self.env, "render") else None

    def close(self) -> None:
        """Close the environment, where it can be closed."""
        if hasattr(self.env, "close"):
            self.env.close()
