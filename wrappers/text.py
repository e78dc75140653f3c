"""What the wrappers of text ask of an environment."""

from __future__ import annotations

import gymnasium as gym
from gymnasium.spaces import Space, Text

from textenv.errors import ConfigTypeError


def require_text(env: gym.Env, wrapper: str, what: str) -> Text:
    """The environment's ``"observation"`` or ``"action"`` space, where it is text.

    Raises:
        ConfigTypeError: where it is another space, naming the wrapper and the space.
    """
    space: Space = getattr(env, f"{what}_space")
    if not isinstance(space, Text):
        raise ConfigTypeError(f"{wrapper} needs an environment whose {what} is text, got {space}")
    return space
