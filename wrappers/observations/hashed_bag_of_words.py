"""`HashedBagOfWords`: shows a text observation as an array of word counts."""

from __future__ import annotations

import re
import zlib

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from gymnasium.utils import RecordConstructorArgs

from textenv.tasks.base import check_range
from textenv.wrappers.text import require_text

_WORD = re.compile(r"\w+|[^\w\s]")
MAX_COUNT = 255


class HashedBagOfWords(gym.ObservationWrapper, RecordConstructorArgs):
    """Shows a text observation as counts of its words, in slots chosen by a hash.

    This is the hashing trick of Weinberger et al., 2009. A word is a run of letters, digits and
    underscores in lower case, or a single other character that is not a space. The slot of a word
    is its CRC-32 modulo ``size``, which is the same in every process, unlike Python's ``hash``.
    Words in the same slot cannot be told apart, and the order of words is lost. Counts stop at
    255.

    It wraps a single environment. For a vector environment, ``gym.make_vec(...,
    vectorization_mode="sync", wrappers=[...])`` wraps each of its environments.

    Args:
        env: an environment whose observation is text.
        size: number of slots. With more slots, fewer words share one.

    Example:
        >>> import gymnasium as gym
        >>> env = HashedBagOfWords(gym.make("textenv:TextGen-v0"), size=8)
        >>> env.observation("So, so good")
        array([0., 0., 1., 2., 0., 0., 1., 0.], dtype=float32)
    """

    def __init__(self, env: gym.Env, size: int = 256):
        RecordConstructorArgs.__init__(self, size=size)
        gym.ObservationWrapper.__init__(self, env)
        require_text(env, "HashedBagOfWords", "observation")
        check_range("size", size, 1, 2**24)
        self._size = size
        self.observation_space = Box(0, MAX_COUNT, (size,), np.float32)

    def observation(self, observation: str) -> np.ndarray:
        """The word counts of a text, of shape (size,)."""
        words = _WORD.findall(observation.lower())
        slots = [zlib.crc32(word.encode()) % self._size for word in words]
        counts = np.bincount(np.array(slots, np.int64), minlength=self._size)
        return np.minimum(counts, MAX_COUNT).astype(np.float32)
