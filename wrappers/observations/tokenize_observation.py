"""`TokenizeObservation`: shows a text observation as a fixed number of token ids."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict
from gymnasium.utils import RecordConstructorArgs

from textenv.tasks.base import check_range
from textenv.tokenizers import load_tokenizer
from textenv.wrappers.text import require_text


class TokenizeObservation(gym.ObservationWrapper, RecordConstructorArgs):
    """Shows a text observation as an array of token ids, with a mask of the padding.

    The observation is ``Dict(ids, mask)``, like that of ``TextGenTokens-v0``. ``ids`` are the last
    L tokens, padded on the left, so that the newest is always the last. ``mask`` is 1 at each
    token and 0 at the padding.

    It wraps a single environment. For a vector environment, ``gym.make_vec(...,
    vectorization_mode="sync", wrappers=[...])`` wraps each of its environments.

    Args:
        env: an environment whose observation is text.
        tokenizer: a name, a folder or an object, as `textenv.tokenizers.load_tokenizer` takes it.
        max_length: L, the number of ids.
        add_special_tokens: whether to add the tokens that the tokenizer puts around a text, such
            as a BOS. Set it to False for the text of a chat template, which contains them already.

    Example:
        >>> import gymnasium as gym
        >>> env = TokenizeObservation(gym.make("textenv:TextGen-v0"), "tiny-lm", max_length=8)
        >>> observation, info = env.reset(seed=0)
        >>> observation["ids"].shape, int(observation["mask"].sum()) == len(info["prompt"])
        ((8,), True)
    """

    def __init__(
        self,
        env: gym.Env,
        tokenizer: Any,
        max_length: int = 256,
        add_special_tokens: bool = True,
    ):
        RecordConstructorArgs.__init__(
            self,
            tokenizer=tokenizer,
            max_length=max_length,
            add_special_tokens=add_special_tokens,
        )
        gym.ObservationWrapper.__init__(self, env)
        require_text(env, "TokenizeObservation", "observation")
        check_range("max_length", max_length, 1, 2**24)
        self.tokenizer = load_tokenizer(tokenizer)
        self._length = max_length
        self._special = add_special_tokens
        largest = self.tokenizer.vocab_size - 1
        self.observation_space = Dict(
            ids=Box(0, largest, (max_length,), np.int32), mask=Box(0, 1, (max_length,), np.int8)
        )

    def observation(self, observation: str) -> dict[str, np.ndarray]:
        """The ids and the mask of a text, each of shape (L,)."""
        tokens = self.tokenizer.encode(observation, self._special)[-self._length :]
        ids = np.full(self._length, self.tokenizer.pad_token_id, np.int32)
        mask = np.zeros(self._length, np.int8)
        if tokens:
            ids[-len(tokens) :] = tokens
            mask[-len(tokens) :] = 1
        return {"ids": ids, "mask": mask}
