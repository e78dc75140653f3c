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
from textenv.wrappers.actions.action_mask import choice_counts, parse_mask


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
            infos: the info of the observation, or a list of them. What their ``action_mask`` does
                not allow is never drawn.

        Raises:
            DataError: for a mask that does not fit the space, see
                `textenv.wrappers.actions.action_mask.parse_mask`.
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
        space: Any = self.action_space
        if not info or "action_mask" not in info:
            return space.sample()
        mask = parse_mask(info["action_mask"], space)
        if isinstance(space, Discrete):
            return space.sample(mask.astype(np.int8))
        ends = np.cumsum(choice_counts(space))[:-1]
        drawn = [space.np_random.choice(np.flatnonzero(part)) for part in np.split(mask, ends)]
        return (np.reshape(drawn, space.shape) + getattr(space, "start", 0)).astype(space.dtype)

    def _stack(self, actions: Sequence[Any]) -> Any:
        """Stack actions to a batch of the vector environment's action space."""
        space = self.action_space
        out: Any = create_empty_array(space, len(actions))
        return concatenate(space, actions, out)
