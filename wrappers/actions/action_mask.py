"""`ActionMask`: gives agents the mask of the actions that are valid now, and enforces it."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space
from gymnasium.utils import RecordConstructorArgs

from textenv.errors import ConfigError, ConfigTypeError, DataError

ON_INVALID = ("error", "random")


def parse_mask(mask: Any, space: Space, over: bool = False) -> np.ndarray:
    """Read an action mask in any of its forms; all policies here read masks by this function.

    Args:
        mask: 1 for each choice that is allowed, and 0 for the others. For a MultiDiscrete it is one
            array, or Gymnasium's tuple with an array for each component.
        space: the action space of a single environment.
        over: whether the episode is over, so that nothing needs to be allowed.

    Returns:
        An array of bool of shape (P,), the choices of all components one after another: n of a
        Discrete, the sum of ``nvec`` of a MultiDiscrete, and for each entry of a MultiBinary
        whether it may be 0 and whether it may be 1, as in sb3-contrib.

    Raises:
        DataError: if the number of entries is another one, an entry is neither 0 nor 1, or a
            component has no choice that is allowed; also if ``space`` has no choices to mask.
    """
    counts = choice_counts(space)
    flat = _flat(mask)
    if len(flat) != sum(counts) or not ((flat == 0) | (flat == 1)).all():
        raise DataError(
            f"action_mask must have {sum(counts)} entries, each 0 or 1, for the action space "
            f"{space}, got {mask!r:.80}"
        )
    allowed = flat.astype(bool)
    parts = np.split(allowed, np.cumsum(counts)[:-1]) if len(counts) > 1 else [allowed]
    for number, part in enumerate(parts):
        if not (part.any() or over):
            raise DataError(
                f"action_mask must allow one choice or more in each component of {space}, and in "
                f"component {number} it allows none: {mask!r:.80}"
            )
    return allowed


def warn_without_masks() -> None:
    """Warn that a policy that was trained with action masks is called without any."""
    warnings.warn(
        "this policy was trained with action masks and is given none here, so it may take actions "
        "that are not allowed: pass infos= with their 'action_mask', or evaluate it by "
        "sb3_contrib.common.maskable.evaluation.evaluate_policy",
        stacklevel=3,
    )


def choice_counts(space: Space) -> list[int]:
    """How many choices each component of an action has.

    Raises:
        DataError: if the components of ``space`` are not choices.
    """
    if isinstance(space, Discrete):
        return [int(space.n)]
    if isinstance(space, MultiDiscrete):
        return [int(n) for n in space.nvec.reshape(-1)]
    if isinstance(space, MultiBinary):
        return [2] * int(np.prod(space.shape))
    raise DataError(
        f"an action_mask is for Discrete, MultiDiscrete or MultiBinary actions, and these are "
        f"{space!s:.80}"
    )


def _flat(mask: Any) -> np.ndarray:
    try:
        return np.asarray(mask).reshape(-1)
    except ValueError:  # arrays of different lengths
        return np.concatenate([_flat(part) for part in mask])


class ActionMask(gym.Wrapper, RecordConstructorArgs):
    """Offers ``info["action_mask"]`` to agents, and refuses or replaces invalid actions.

    * ``action_masks()`` returns the actions that are valid now, as an array of bool. This is the
      method that sb3-contrib's ``MaskablePPO`` calls, also through vector environments.
    * With ``in_observation`` the observation is ``Dict(observation, action_mask)``, for agents
      that learn from stored transitions.
    * An invalid action is an error, or it is replaced by a random valid one. In the second case
      ``info["invalid_action"]`` says whether this step's action was replaced.

    When the episode is over, no action is valid if the environment says so or has no mask then.

    It wraps a single environment. For a vector environment, ``gym.make_vec(...,
    vectorization_mode="sync", wrappers=[...])`` wraps each of its environments.

    Args:
        env: an environment with a `Discrete` action space whose infos have ``action_mask``, such
            as ``TextGenTokens-v0``, or `ChoiceAction` with a list of choices in each example.
        on_invalid: ``"error"``, or ``"random"`` for agents that do not use masks.
        in_observation: whether the mask is part of the observation.
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
                observation=env.observation_space,
                action_mask=Box(0, 1, (int(env.action_space.n),), np.int8),
            )

    def action_masks(self) -> np.ndarray:
        """Whether each action is valid now, as an array of bool of shape (n,).

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
            DataError: if the info has no ``action_mask``, or one that `parse_mask` refuses.
        """
        if seed is not None:
            # Separate from the environment's generator: replacing an action must not change which
            # example comes next.
            self._rng = np.random.default_rng([seed, 1])
        observation, info = self.env.reset(seed=seed, options=options)
        self._read(info)
        return self._observe(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take an action.

        Raises:
            InvalidAction: if it is not valid, and ``on_invalid`` is ``"error"``.
            ResetNeeded: if the episode is over, and no action is valid any more.
        """
        mask = self.action_masks()
        if not mask.any():
            raise ResetNeeded("the episode is over, and no action is valid: reset() must be called")
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
        self._read(info, over=terminated or truncated)
        if self._on_invalid == "random":
            info = {**info, "invalid_action": not valid}
        return self._observe(observation), reward, terminated, truncated, info

    def _read(self, info: dict[str, Any], over: bool = False) -> None:
        n = int(self._space.n)
        if "action_mask" not in info:
            if over:
                self._mask = np.zeros(n, bool)
                return
            raise DataError(
                "ActionMask needs info['action_mask'] at every step; this info has "
                f"{', '.join(map(repr, info)) or 'no keys'}"
            )
        self._mask = parse_mask(info["action_mask"], self._space, over)

    def _observe(self, observation: Any) -> Any:
        if not self._in_observation:
            return observation
        return {"observation": observation, "action_mask": self.action_masks().astype(np.int8)}
