"""The environment ``TextGenTokens-v0``: the tasks of ``TextGen-v0`` with one token per step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.spaces import Box, Dict, Discrete

from textenv.envs.env import TextGenerationEnv
from textenv.errors import ConfigError
from textenv.rewards import RewardSpec
from textenv.tasks import Example, Task
from textenv.tokenizers import load_tokenizer

TokenObservation = dict[str, Any]
"""The arrays ``ids`` and ``mask``."""


class TokenGenerationEnv(gym.Env[TokenObservation, Any]):
    """Complete a prompt token by token, for agents that choose one of a fixed number of actions.

    ## Description
    It plays the tasks of `textenv.TextGenerationEnv`. The agent's tokens are collected until it
    takes an EOS token. Their text is then one action of the text environment, which scores it.

    ## Action Space
    ``Discrete(vocabulary)``: the next token. ``info["action_mask"]`` (int8, as
    ``action_space.sample(mask)`` takes it) is 0 for the padding token and 1 for all others. The
    mask is not enforced: a padding token that is taken is written out as text.

    ## Observation Space
    ``Dict``: ``ids`` holds the last ``max_length`` tokens of the transcript, **padded on the
    left**, so that the newest token is always the last. ``mask`` is 1 at each token and 0 at the
    padding. The agent's own tokens stay as it chose them, EOS included. The text of the
    environment is encoded once. A conversation is encoded as the tokenizer's chat template has
    it, if there is one.

    ## Rewards
    0 for each token, and at the end of an action the text environment's reward for it.

    ## Starting State
    That of the text environment, for the same seed or ``options={"example_id": i}``.

    ## Episode End
    An EOS token ends an action. The episode terminates when the task ends it: in a task of one
    turn, after the first action. ``max_tokens`` tokens without an EOS truncate the episode, and
    the text so far is scored. The episode is also truncated when the task's turns are used up.

    ## Information
    ``action_mask`` at every step. At a reset and at the end of an action also what the text
    environment gives there.

    ## Arguments
    Args:
        prompts: your own prompts, as in `textenv.TextGenerationEnv`.
        reward_fn: a reward function, a name, or a list of these.
        max_tokens: maximum number of tokens in one action, its EOS included.
        tokenizer: ``"tiny-lm"``, a folder, a hub name, or a tokenizer object with an EOS.
        examples: one dict for each of ``prompts``.
        max_length: length of the observation, in tokens.
        render_mode: ``"ansi"`` or ``"human"``.
        **kwargs: all other arguments of `textenv.TextGenerationEnv`, such as ``task``, ``split``.

    ## Version History
    * v0: first version.
    """

    metadata = {"render_modes": ["ansi", "human"], "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        prompts: Sequence[str] | None = None,
        reward_fn: RewardSpec | None = None,
        max_tokens: int = 16,
        tokenizer: Any = "tiny-lm",
        examples: Sequence[Mapping[str, Any]] | None = None,
        *,
        max_length: int = 256,
        render_mode: str | None = None,
        **kwargs: Any,
    ):
        if isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 1:
            raise ConfigError(f"max_length must be an integer >= 1, got {max_length!r}")
        given = {
            "prompts": prompts,
            "reward_fn": reward_fn,
            "max_tokens": max_tokens,
            "examples": examples,
            **kwargs,
        }
        self.text_env = TextGenerationEnv(**given, render_mode=render_mode)
        """The text environment that plays the task."""
        self.tokenizer = load_tokenizer(tokenizer)
        if not self.tokenizer.eos_token_ids:
            raise ConfigError(
                "the tokenizer has no EOS token, so no answer could end; "
                "use a tokenizer with an eos_token_id"
            )
        self.max_tokens = max_tokens
        self.max_length = max_length
        self.render_mode = render_mode
        vocabulary = self.tokenizer.vocab_size
        self.action_space = Discrete(vocabulary)
        self.observation_space = Dict(
            ids=Box(0, vocabulary - 1, (max_length,), np.int32),
            mask=Box(0, 1, (max_length,), np.int8),
        )
        self._action_mask = np.zeros(vocabulary, np.int8)
        self._action_mask[list(self.tokenizer.ids)] = 1
        if self.tokenizer.pad_token_id not in self.tokenizer.eos_token_ids:
            self._action_mask[self.tokenizer.pad_token_id] = 0
        self._transcript_ids: list[int] = []
        self._action_ids: list[int] = []
        self._needs_reset = "reset() must be called before step()"
        given = {**given, "tokenizer": tokenizer, "max_length": max_length}
        self.spec = EnvSpec(
            "TextGenTokens-v0",
            entry_point="textenv.envs.token_env:TokenGenerationEnv",
            kwargs={key: value for key, value in given.items() if value is not None},
        )

    @property
    def task(self) -> Task:
        """The task that is played."""
        return self.text_env.task

    @property
    def example(self) -> Example | None:
        """The example that is played."""
        return self.text_env.example

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[TokenObservation, dict[str, Any]]:
        """Start an episode with the example that the text environment draws or is given.

        Raises:
            ConfigError: for an unknown option or an id out of range.
            ConfigTypeError: for an id that is not an integer.
        """
        super().reset(seed=seed)
        prompt, info = self.text_env.reset(seed=seed, options=options)
        self._transcript_ids = self._encoded(prompt, info)
        self._action_ids = []
        self._needs_reset = ""
        return self._observation(), {**info, "action_mask": self._action_mask.copy()}

    def step(self, action: int) -> tuple[TokenObservation, float, bool, bool, dict[str, Any]]:
        """Append a token; an EOS, or token number ``max_tokens``, ends the action.

        Raises:
            InvalidAction: if the action is not a token id.
            ResetNeeded: before the first reset and after the end of an episode.
            RewardError: if a reward function fails.
        """
        if self._needs_reset:
            raise ResetNeeded(self._needs_reset)
        if not self.action_space.contains(action):
            raise InvalidAction(
                f"action must be a token id, an integer from 0 to {self.tokenizer.vocab_size - 1}, "
                f"got {action!r}"
            )
        token = int(action)
        self._transcript_ids.append(token)
        ended = token in self.tokenizer.eos_token_ids
        if not ended:
            self._action_ids.append(token)
        reward, terminated, truncated = 0.0, False, False
        info: dict[str, Any] = {}
        if ended or len(self._action_ids) == self.max_tokens:
            text = self.tokenizer.decode(self._action_ids)
            _, reward, terminated, truncated, info = self.text_env.step(text, cut=not ended)
            self._action_ids = []
            over = terminated or truncated
            self._transcript_ids += self._said(info, over)
            if over:
                self._needs_reset = "the episode has ended: reset() must be called before step()"
        info["action_mask"] = self._action_mask.copy()
        return self._observation(), reward, terminated, truncated, info

    def render(self) -> str | None:
        """The transcript so far: returned in mode ``"ansi"``, printed in mode ``"human"``.

        In mode ``"human"`` it is also printed automatically at the end of each action.
        """
        shown = self.text_env.render()
        return None if shown is None else shown + self.tokenizer.decode(self._action_ids)

    def close(self) -> None:
        """Release what the episode and the reward functions hold."""
        self.text_env.close()

    def _encoded(self, prompt: str, info: Mapping[str, Any]) -> list[int]:
        """Token ids of a prompt; of a conversation, as the chat template has it if there is one."""
        if "messages" not in info or not self.tokenizer.has_chat_template:
            return self.tokenizer.encode_prompt(prompt)
        shown = self.tokenizer.render_chat(info["messages"], tools=info.get("tools"))
        return self.tokenizer.encode(shown, add_special_tokens=False)

    def _said(self, info: Mapping[str, Any], over: bool) -> list[int]:
        """Token ids of what the environment says after an action."""
        if over or "messages" not in info or not self.tokenizer.has_chat_template:
            return self.tokenizer.encode(info.get("turn", ""), add_special_tokens=False)
        said = self.tokenizer.render_after_answer(info["messages"], tools=info.get("tools"))
        ids = self.tokenizer.encode(said, add_special_tokens=False)
        # The template ends an answer with an EOS, which the agent has taken already.
        return ids[1:] if ids[:1] == self._transcript_ids[-1:] else ids

    def _observation(self) -> TokenObservation:
        shown = self._transcript_ids[-self.max_length :]
        ids = np.full(self.max_length, self.tokenizer.pad_token_id, np.int32)
        mask = np.zeros(self.max_length, np.int8)
        if shown:
            ids[-len(shown) :] = shown
            mask[-len(shown) :] = 1
        return {"ids": ids, "mask": mask}
