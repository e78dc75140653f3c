"""`DetokenizeAction`: lets an agent give a whole completion as an array of token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import InvalidAction
from gymnasium.spaces import MultiDiscrete
from gymnasium.utils import RecordConstructorArgs

from textenv.tasks.base import check_range
from textenv.tokenizers import load_tokenizer
from textenv.wrappers.text import require_text


class DetokenizeAction(gym.ActionWrapper, RecordConstructorArgs):
    """Takes a whole completion as token ids, and decodes those before the first EOS.

    The action space is ``MultiDiscrete([vocabulary] * max_tokens)``, for agents whose actions have
    a fixed shape. Ids after an EOS are ignored. ``step`` also takes a shorter list of ids. For one
    token per step, use ``TextGenTokens-v0``.

    It wraps a single environment. For a vector environment, ``gym.make_vec(...,
    vectorization_mode="sync", wrappers=[...])`` wraps each of its environments.

    Args:
        env: an environment whose action is text.
        tokenizer: a name, a folder or an object, as `textenv.tokenizers.load_tokenizer` takes it.
        max_tokens: number of ids in an action, an EOS included.
    """

    def __init__(self, env: gym.Env, tokenizer: Any, max_tokens: int = 25):
        RecordConstructorArgs.__init__(self, tokenizer=tokenizer, max_tokens=max_tokens)
        gym.ActionWrapper.__init__(self, env)
        require_text(env, "DetokenizeAction", "action")
        check_range("max_tokens", max_tokens, 1, 2**20)
        self.tokenizer = load_tokenizer(tokenizer)
        self._max_tokens = max_tokens
        self.action_space = MultiDiscrete([self.tokenizer.vocab_size] * max_tokens)

    def action(self, action: Sequence[int] | np.ndarray) -> str:
        """The text of the token ids before the first EOS.

        Raises:
            InvalidAction: for anything but at most ``max_tokens`` ids of the vocabulary.
        """
        ids = np.asarray(action)
        if ids.ndim != 1 or len(ids) > self._max_tokens:
            raise InvalidAction(
                f"action must be at most {self._max_tokens} token ids, got shape {ids.shape}"
            )
        if len(ids) and not np.issubdtype(ids.dtype, np.integer):
            raise InvalidAction(f"token ids must be integers, got {ids.dtype}")
        size = self.tokenizer.vocab_size
        if len(ids) and not (ids.min() >= 0 and ids.max() < size):
            raise InvalidAction(
                f"token ids must be from 0 to {size - 1}, got {ids.min()} to {ids.max()}"
            )
        ends = np.flatnonzero(np.isin(ids, self.tokenizer.eos_token_ids))
        return self.tokenizer.decode(ids[: ends[0]] if len(ends) else ids)
