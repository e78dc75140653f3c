"""`CountFromZero`: actions and observations that are choices count from 0, as SB3's agents do."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Dict, Discrete, MultiDiscrete, Space
from gymnasium.utils import RecordConstructorArgs


class CountFromZero(gym.Wrapper, RecordConstructorArgs):
    """Counts the choices of Discrete and MultiDiscrete spaces from 0.

    Agents of Stable-Baselines3 do not know of another ``start``: in a ``Discrete(3, start=5)`` they
    take the actions 0, 1 and 2. Spaces in a Dict observation are counted from 0 too.

    It wraps a single environment. For a vector environment, ``gym.make_vec(...,
    vectorization_mode="sync", wrappers=[...])`` wraps each of its environments.

    Args:
        env: any environment.
    """

    def __init__(self, env: gym.Env):
        RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        self.observation_space = from_zero(env.observation_space)
        self.action_space = from_zero(env.action_space)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        observation, info = self.env.reset(**kwargs)
        return shift(self.env.observation_space, observation, -1), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take an action, which is counted from 0."""
        observation, *rest = self.env.step(shift(self.env.action_space, action))
        return shift(self.env.observation_space, observation, -1), *rest  # type: ignore[return-value]


def from_zero(space: Space) -> Space:
    """The same space with its choices counted from 0; the very same if they are already."""
    if isinstance(space, Dict):
        parts = [(key, from_zero(part)) for key, part in space.items()]
        same = all(part is space[key] for key, part in parts)
        return space if same else Dict(parts)  # type: ignore[arg-type]
    if not np.any(getattr(space, "start", 0)):
        return space
    if isinstance(space, Discrete):
        return Discrete(int(space.n))
    if isinstance(space, MultiDiscrete):
        return MultiDiscrete(space.nvec, dtype=space.dtype)  # type: ignore[arg-type]
    return space


def shift(space: Space, value: Any, by: int = 1) -> Any:
    """A value counted from 0, or a batch of them, as one of a space; -1 as ``by`` turns it back."""
    if isinstance(space, Dict):
        return {key: shift(part, value[key], by) for key, part in space.items()}
    if isinstance(space, (Discrete, MultiDiscrete)) and np.any(space.start):
        return value + by * space.start
    return value
