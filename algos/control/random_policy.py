"""Actions at random: what every learner is compared with."""

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
    """Draws from an action space, whatever it observes.

    Args:
        action_space: of a single environment.
        seed: of its draws.
        num_envs: for a vector environment, of how many; None for a single one.

    Raises:
        ConfigError: for fewer than one environment.
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
            observation: not looked at.
            deterministic: no different.
            infos: the info of the observation, or a list of them; a Discrete action is drawn from
                what their ``action_mask`` allows.
        """
        if self.num_envs is None:
            return self._draw(infos), {}
        if infos is None:
            infos = [None] * self.num_envs
        actions = [self._draw(info) for info in infos]
        return self._stack(actions), {}

    def reseed(self, seed: int) -> None:
        """Draw other actions from now on."""
        self.action_space.seed(seed)

    def fingerprint(self) -> str:
        """SHA-256 of what decides its actions: the space that it draws from."""
        text = json.dumps(["RandomPolicy", describe_space(self.action_space)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _draw(self, info: Any) -> Any:
        if info and "action_mask" in info and isinstance(self.action_space, Discrete):
            return self.action_space.sample(np.asarray(info["action_mask"], np.int8))
        return self.action_space.sample()

    def _stack(self, actions: Sequence[Any]) -> Any:
        """A batch, as the vector environment's action space has it."""
        space = self.action_space
        out: Any = create_empty_array(space, len(actions))
        return concatenate(space, actions, out)
