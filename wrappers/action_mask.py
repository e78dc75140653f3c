"""The actions that are valid now, where agents look for them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.spaces import Dict, Discrete, MultiBinary
from gymnasium.utils import RecordConstructorArgs

from textenv.errors import ConfigError, ConfigTypeError, DataError

ON_INVALID = ("error", "random")


class ActionMask(gym.Wrapper, RecordConstructorArgs):
    """Puts ``info["action_mask"]`` to work.

    * ``action_masks()`` gives the valid actions of now as an array of bool: sb3-contrib's
      ``MaskablePPO`` asks for it by this name, through vector environments too.
    * With ``in_observation`` the observation is ``Dict(observation, action_mask)``: what an
      agent needs that learns from stored transitions.
    * An action that is not valid is an error, or is replaced by a valid one, at random, and
      ``info["invalid_action"]`` says where.

    It wraps a single environment; for a vector ``gym.make_vec(..., wrappers=[...])`` puts one
    around each.

    Args:
        env: an environment with a `Discrete` action whose infos have ``action_mask``, such as
            ``TextGenTokens-v0``, or `ChoiceAction` with lists of each example's own.
        on_invalid: ``"error"``, or ``"random"`` for agents that know of no mask.
        in_observation: whether the observation holds the mask.
    """

    def __init__(self, env: gym.Env, on_invalid: str = "error", in_observation: bool = False):
        RecordConstructorArgs.__init__(self, on_invalid=on_invalid, in_observation=in_observation)
        gym.Wrapper.__init__(self, env)
        if not isinstance(env.action_space, Discrete):
            raise ConfigTypeError(
                f"ActionMask needs an environment whose action is Discrete, got {env.action_space}"
            )
        if on_invalid not in ON_INVALID:
            raise ConfigError(
                f"on_invalid must be one of {', '.join(ON_INVALID)}, got {on_invalid!r}"
            )
        self._space = env.action_space
        self._on_invalid = on_invalid
        self._in_observation = in_observation
        self._mask: np.ndarray | None = None
        self._rng = np.random.default_rng()
        if in_observation:
            self.observation_space = Dict(
                observation=env.observation_space, action_mask=MultiBinary(int(env.action_space.n))
            )

    def action_masks(self) -> np.ndarray:
        """Whether each action is valid now, (n,) of bool.

        Raises:
            ResetNeeded: before the first reset.
        """
        if self._mask is None:
            raise ResetNeeded("reset() must be called before action_masks()")
        return self._mask.copy()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode.

        Raises:
            DataError: where the info has no ``action_mask``, or not one of the right shape.
        """
        if seed is not None:
            # A stream of its own: replacing an action must not change which example comes next.
            self._rng = np.random.default_rng([seed, 1])
        observation, info = self.env.reset(seed=seed, options=options)
        self._read(info)
        return self._observe(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take an action.

        Raises:
            InvalidAction: where it is not valid, and ``on_invalid`` is ``"error"``.
        """
        mask = self.action_masks()
        space, start = self._space, int(self._space.start)
        if not space.contains(action):
            raise InvalidAction(f"action must be a member of {space}, got {action!r}")
        valid = bool(mask[int(action) - start])
        if not valid:
            allowed = np.flatnonzero(mask) + start
            if self._on_invalid == "error":
                raise InvalidAction(
                    f"action {int(action)} is masked; {len(allowed)} of {space.n} are valid: "
                    f"{', '.join(map(str, allowed[:10]))}{', ...' if len(allowed) > 10 else ''}"
                )
            action = self._rng.choice(allowed)
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._read(info)
        if self._on_invalid == "random":
            info = {**info, "invalid_action": not valid}
        return self._observe(observation), reward, terminated, truncated, info

    def _read(self, info: dict[str, Any]) -> None:
        if "action_mask" not in info:
            raise DataError(
                "ActionMask needs info['action_mask'] at every step; this info has "
                f"{', '.join(map(repr, info)) or 'no keys'}"
            )
        mask = np.asarray(info["action_mask"])
        n = int(self._space.n)
        if mask.shape != (n,) or not mask.any():
            raise DataError(
                f"info['action_mask'] must be of shape ({n},) with a valid action in it, got "
                f"shape {mask.shape} with {int(mask.sum())}"
            )
        self._mask = mask.astype(bool)

    def _observe(self, observation: Any) -> Any:
        if not self._in_observation:
            return observation
        return {"observation": observation, "action_mask": self.action_masks().astype(np.int8)}
