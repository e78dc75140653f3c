"""`ByteObservation`: shows a text observation as a fixed number of UTF-8 bytes."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from gymnasium.utils import RecordConstructorArgs

from textenv.tasks.base import check_range
from textenv.wrappers.text import require_text


class ByteObservation(gym.ObservationWrapper, RecordConstructorArgs):
    """Shows a text observation as its UTF-8 bytes, followed by zeros.

    If a text has more than ``max_length`` bytes, its last bytes are kept, which are the newest
    part of a transcript. A NUL character in a text looks like padding.

    It wraps a single environment. For a vector environment, ``gym.make_vec(...,
    vectorization_mode="sync", wrappers=[...])`` wraps each of its environments.

    Args:
        env: an environment whose observation is text.
        max_length: number of bytes in the observation.

    Example:
        >>> import gymnasium as gym
        >>> env = ByteObservation(gym.make("textenv:TextGen-v0"), max_length=4)
        >>> env.observation("é1")
        array([195, 169,  49,   0], dtype=uint8)
    """

    def __init__(self, env: gym.Env, max_length: int = 256):
        RecordConstructorArgs.__init__(self, max_length=max_length)
        gym.ObservationWrapper.__init__(self, env)
        require_text(env, "ByteObservation", "observation")
        check_range("max_length", max_length, 1, 2**24)
        self._length = max_length
        self.observation_space = Box(0, 255, (max_length,), np.uint8)

    def observation(self, observation: str) -> np.ndarray:
        """The bytes of a text, of shape (max_length,)."""
        text = observation.encode()[-self._length :]
        data = np.zeros(self._length, np.uint8)
        data[: len(text)] = np.frombuffer(text, np.uint8)
        return data
