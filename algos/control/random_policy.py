"""A policy that acts at random, the baseline for every learner."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete, Space
from gymnasium.vector.utils import concatenate, create_empty_array

from textenv.algos.config import check_integer
from textenv.algos.storage.space_json import describe_space


class RandomPolicy:
    """Draws actions from a space, whatever it observes.

    Args:
        action_space: the action space of a single environment.
        seed: seed of the draws.
        num_envs: how many environments a vector environment has; None for a single environment.

    Raises:
        ConfigError: if ``num_envs`` is below 1.
    """

    def __init__(self, action_space: Space, seed: int = 0, num_envs: int | None = None):
        if num_envs is not None:
            check_integer("num_envs", num_envs, 1)
        self.action_space = copy.deepcopy(action_space)
        self.action_space.seed(seed)
        self.num_envs = num_envs

    def __call__(
        self, observation: Any, deterministic: bool = False, infos: Any = None
    ) -> tuple[Any, dict[str, Any]]:
        """Draw an action, or one for each environment.

        Args:
            observation: unused.
            deterministic: unused; the actions are random in any case.
            infos: the info of the observation, or a list of them. A Discrete action is drawn from
                those that ``action_mask`` allows.
        """
        if self.num_envs is None:
            return self._draw(infos), {}
        if infos is None:
            infos = [None] * self.num_envs
        actions = [self._draw(info) for info in infos]
        return self._stack(actions), {}

    def reseed(self, seed: int) -> None:
        """Draw the actions from another seed from now on."""
        self.action_space.seed(seed)

    def fingerprint(self) -> str:
        """SHA-256 of the space that it draws from, which decides its actions."""
        text = json.dumps(["RandomPolicy", describe_space(self.action_space)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _draw(self, info: Any) -> Any:
        if info and "action_mask" in info and isinstance(self.action_space, Discrete):
            return self.action_space.sample(np.asarray(info["action_mask"], np.int8))
        return self.action_space.sample()

    def _stack(self, actions: Sequence[Any]) -> Any:
        """Stack actions to a batch of the vector environment's action space."""
        space = self.action_space
        out: Any = create_empty_array(space, len(actions))
        return concatenate(space, actions, out)
