"""`DictStep` and `TupleStep`: convert between step results as a dict and as Gymnasium's tuple."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import gymnasium as gym
import numpy as np

_OLD_GYM = (
    "environments of Gym before 0.26 have other resets and steps, which the package shimmy converts"
)
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
        TypeError: for a tuple or anything else that is not a dict, for a flag of a wrong type, or
            for a reward of another shape than the flags.
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
    terminated = _flag("terminated", result["terminated"])
    reward: Any = result["reward"]
    shape = getattr(terminated, "shape", ())
    if not shape or hasattr(reward, "shape"):
        _check_reward(reward, shape)
    return Step(
        observation=result["observation"],
        reward=reward,
        terminated=terminated,
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


def _check_reward(reward: Any, shape: tuple[int, ...]) -> None:
    """Raise TypeError unless a reward is a number, or an array of this shape if the flags are."""
    if type(reward) is float and not shape:  # the common case
        return
    own = tuple(getattr(reward, "shape", ())) if hasattr(reward, "ndim") else None
    if own is None and isinstance(reward, numbers.Real):
        own = ()
    if own is None and shape and isinstance(reward, Sequence) and not isinstance(reward, str):
        own = (len(reward),)
    if own != shape:
        came = f"{reward!r:.60}" if not own else f"an array of shape {own}"
        expected = f"an array of shape {shape}, like the flags" if shape else "a number"
        raise TypeError(f"the reward that step returns must be {expected}, got {came}")


def reset_values(env: Any, result: Any) -> tuple[Any, dict[str, Any]]:
    """Check that a Gymnasium environment's reset returned ``(observation, info)``.

    Raises:
        TypeError: for anything else, such as the observation alone.
    """
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping):
        return result  # type: ignore[return-value]
    raise TypeError(
        f"reset of {env} must return (observation, info), where info is a dict, got "
        f"{type(result).__name__}: {result!r:.80}; {_OLD_GYM}"
    )


def step_values(env: Any, result: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
    """Check that a Gymnasium environment's step returned five values of the right shapes.

    Raises:
        TypeError: if there are not five values in a tuple, for a flag or a reward that is not one
            value for each environment, or for an info that is not a dict.
    """
    if not isinstance(result, tuple) or len(result) != len(STEP_KEYS):
        count = f" of {len(result)} values" if isinstance(result, tuple) else ""
        raise TypeError(
            f"step of {env} must return the five values {', '.join(STEP_KEYS)}, got "
            f"{type(result).__name__}{count}: {result!r:.80}; {_OLD_GYM}"
        )
    shape = (env.num_envs,) if isinstance(env, gym.vector.VectorEnv) else ()
    observation, reward, terminated, truncated, info = result
    try:
        _check_reward(reward, shape)
        flags = _flag("terminated", terminated), _flag("truncated", truncated)
        for name, flag in zip(STEP_KEYS[2:], flags):
            if getattr(flag, "shape", ()) != shape:
                expected = f"of shape {shape}" if shape else "True or False"
                raise TypeError(f"{name} must be {expected}, got an array of shape {flag.shape}")
        if not isinstance(info, Mapping):
            raise TypeError(f"info must be a dict, got {type(info).__name__}")
    except TypeError as error:
        raise TypeError(f"step of {env}: {error}") from error
    return observation, reward, *flags, info  # type: ignore[return-value]


class CheckedStep(gym.Wrapper):
    """Checks what the resets and steps of a single environment return, and changes nothing.

    A vector environment that is made of environments needs it, because Gymnasium's own message
    for a wrong tuple does not say which environment or method it comes from.
    """

    @property
    def spec(self) -> Any:  # type: ignore[override]
        """The environment's own spec, since this wrapper changes nothing."""
        return self.env.spec

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Start an episode.

        Raises:
            TypeError: see `reset_values`.
        """
        return reset_values(self.env, self.env.reset(**kwargs))

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take an action.

        Raises:
            TypeError: see `step_values`.
        """
        return step_values(self.env, self.env.step(action))


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
        """Start an episode; returns ``{"observation", "info"}``.

        Raises:
            TypeError: if the environment's reset does not return ``(observation, info)``.
        """
        observation, info = reset_values(self.env, self.env.reset(seed=seed, options=options))
        return {"observation": observation, "info": info}

    def step(self, action: Any) -> Step:
        """Take an action; returns the dict of `standardize_step`.

        Raises:
            TypeError: if the environment's step does not return five values in a tuple, with a
                reward and flags that are one value for each environment.
        """
        values = step_values(self.env, self.env.step(action))
        return Step(**dict(zip(STEP_KEYS, values)))  # type: ignore[typeddict-item]

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
