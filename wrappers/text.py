"""The check that an environment has text observations or actions, which several wrappers need."""

from __future__ import annotations

import gymnasium as gym
from gymnasium.spaces import Space, Text

from textenv.errors import ConfigTypeError


def require_text(env: gym.Env, wrapper: str, what: str) -> Text:
    """The environment's ``"observation"`` or ``"action"`` space, which must be text.

    Raises:
        ConfigTypeError: if it is another space; names the wrapper and the space.
    """
    space: Space = getattr(env, f"{what}_space")
    if not isinstance(space, Text):
        raise ConfigTypeError(f"{wrapper} needs an environment whose {what} is text, got {space}")
    return space
