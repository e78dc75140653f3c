"""Observations as the messages of a chat."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.spaces import Dict, Sequence
from gymnasium.utils import RecordConstructorArgs

from textenv.errors import ConfigError
from textenv.spaces import UnicodeText
from textenv.tokenizers import load_tokenizer
from textenv.wrappers.text import require_text

Message = dict[str, str]


class ChatHistory(gym.Wrapper, RecordConstructorArgs):
    """Shows the episode as messages: the environment's are the user's, the agent's the assistant's.

    The observation is a tuple of ``{"role", "content"}``; or, given a tokenizer, the text that
    the model's chat template makes of them. That text holds its special tokens: encode it with
    ``add_special_tokens=False``, and switch off the template of a policy that has its own.

    What the environment says after an action is ``info["turn"]``; where there is none, what
    follows the transcript so far in the observation, or else the whole observation. Silence at
    the end of an episode makes no message.

    It wraps a single environment; for a vector ``gym.make_vec(..., wrappers=[...])`` puts one
    around each.

    Args:
        env: an environment whose observation and action are text.
        tokenizer: None, or what `textenv.tokenizers.load_tokenizer` takes, with a chat template.
        system: a system message to begin with.

    Raises:
        ConfigError: where the tokenizer has no chat template.

    Example:
        >>> import gymnasium as gym
        >>> env = ChatHistory(gym.make("textenv:TextGen-v0", prompts=["Hi"], reward_fn="length"))
        >>> env.reset(seed=0)[0]
        ({'role': 'user', 'content': 'Hi'},)
        >>> env.step("Hello")[0][1]
        {'role': 'assistant', 'content': 'Hello'}
    """

    def __init__(self, env: gym.Env, tokenizer: Any = None, system: str | None = None):
        RecordConstructorArgs.__init__(self, tokenizer=tokenizer, system=system)
        gym.Wrapper.__init__(self, env)
        seen = require_text(env, "ChatHistory", "observation")
        done = require_text(env, "ChatHistory", "action")
        self.tokenizer = None if tokenizer is None else load_tokenizer(tokenizer)
        if self.tokenizer is not None and not self.tokenizer.has_chat_template:
            raise ConfigError(
                f"tokenizer {tokenizer!r} has no chat template; leave the tokenizer out for "
                "plain messages"
            )
        longest = max(seen.max_length, done.max_length)
        if self.tokenizer is None:
            self.observation_space = Sequence(
                Dict(role=UnicodeText(16), content=UnicodeText(longest))
            )
        else:
            self.observation_space = UnicodeText(2**31 - 1)  # a template adds what it likes
        self._start: list[Message] = (
            [] if system is None else [{"role": "system", "content": system}]
        )
        self._messages: list[Message] = []
        self._transcript = ""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode: the prompt is the first message of the user."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._messages = [*self._start, {"role": "user", "content": observation}]
        self._transcript = observation
        return self._show(), info

    def step(self, action: str) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Say something, and hear the answer."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        said = info["turn"] if "turn" in info else self._new(action, observation)
        self._messages.append({"role": "assistant", "content": action})
        if said or not (terminated or truncated):
            self._messages.append({"role": "user", "content": said})
        self._transcript = observation
        return self._show(), reward, terminated, truncated, info

    def _new(self, action: str, observation: str) -> str:
        before = self._transcript + action
        return observation[len(before) :] if observation.startswith(before) else observation

    def _show(self) -> Any:
        if self.tokenizer is None:
            return tuple(dict(message) for message in self._messages)
        agent_is_next = self._messages[-1]["role"] != "assistant"
        return self.tokenizer.render_chat(self._messages, add_generation_prompt=agent_is_next)
