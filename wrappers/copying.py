"""Copies what is recorded, so that nothing changes it afterwards."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import gymnasium as gym
import numpy as np

_UNCHANGING = (str, bool, int, float, type(None), np.generic)


def copied(value: Any) -> Any:
    """A copy of an observation, an action or an info that shares nothing changeable with it.

    Many environments give out the same array, list or dict at every step, and change it in place.
    What cannot be copied, such as a lock in an info, stays as it is.
    """
    kind = type(value)
    if kind is np.ndarray and not value.dtype.hasobject:
        return value.copy()
    if kind is dict:
        return {key: copied(item) for key, item in value.items()}
    if kind is list:
        return [copied(item) for item in value]
    if kind is tuple:
        return tuple([copied(item) for item in value])
    if isinstance(value, _UNCHANGING):
        return value
    try:
        return copy.deepcopy(value)
    except Exception:  # an object may refuse with any error
        return value


class OwnLastStep(gym.Wrapper):
    """Copies the last observation and info of an episode.

    Vector environments that reset in the same step (Gymnasium's SyncVectorEnv with SAME_STEP, and
    Stable-Baselines3's DummyVecEnv) keep these until after the reset. An environment that gives out
    its own array at every step has changed it by then.
    """

    @classmethod
    def around(cls, envs: Iterable[gym.Env]) -> list[gym.Env]:
        """These environments, wrapped unless they are already."""
        return [env if isinstance(env, cls) else cls(env) for env in envs]

    @property
    def spec(self) -> Any:  # type: ignore[override]
        """The spec of the environment: this wrapper is no part of it."""
        return self.env.spec

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take an action."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated or truncated:
            observation, info = copied(observation), copied(info)
        return observation, reward, terminated, truncated, info
