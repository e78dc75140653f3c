"""`ChatHistory`: shows the transcript of an episode as the messages of a chat."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
from gymnasium.spaces import Dict, Sequence
from gymnasium.utils import RecordConstructorArgs

from textenv.errors import ConfigError
from textenv.messages import Message
from textenv.spaces import UnicodeText
from textenv.tokenizers import load_tokenizer
from textenv.tools.calls import with_calls
from textenv.wrappers.text import require_text


class ChatHistory(gym.Wrapper, RecordConstructorArgs):
    """Shows the episode as messages; the environment is the user, and the agent the assistant.

    The observation is a tuple of ``{"role", "content"}`` dicts. If there is a tokenizer, it is the
    text that the model's chat template makes of them. That text contains its special tokens
    already: encode it with ``add_special_tokens=False``. ``info["messages"]`` has the messages in
    both cases, and a policy of a language model renders them by its own chat template.
    Environments of this package have them without this wrapper, if they are given a
    ``system_prompt``.

    An environment that has ``info["messages"]`` of its own, such as one with a system prompt or
    tools, is shown by these. For any other, its reply to an action is its ``info["turn"]``. If
    there is none, it is the part of the observation that follows the transcript so far, or the
    whole observation if that does not begin with the transcript. An empty reply at the end of an
    episode makes no message. If there is a tokenizer, ``info["turn"]`` is what this wrapper shows
    after the action: the end of the assistant's message, the reply as a message, and the beginning
    of the next answer.

    It wraps a single environment. For a vector environment, ``gym.make_vec(...,
    vectorization_mode="sync", wrappers=[...])`` wraps each of its environments.

    Args:
        env: an environment whose observation and action are text.
        tokenizer: None, or an argument of `textenv.tokenizers.load_tokenizer` whose tokenizer has
            a chat template.
        system: a system message to begin with.
        chat_template_kwargs: settings of the chat template, such as ``enable_thinking``.

    Raises:
        ConfigError: if the tokenizer has no chat template.

    Example:
        >>> import gymnasium as gym
        >>> env = ChatHistory(gym.make("textenv:TextGen-v0", prompts=["Hi"], reward_fn="length"))
        >>> env.reset(seed=0)[0]
        ({'role': 'user', 'content': 'Hi'},)
        >>> env.step("Hello")[0][1]
        {'role': 'assistant', 'content': 'Hello'}
    """

    def __init__(
        self,
        env: gym.Env,
        tokenizer: Any = None,
        system: str | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
    ):
        RecordConstructorArgs.__init__(
            self, tokenizer=tokenizer, system=system, chat_template_kwargs=chat_template_kwargs
        )
        gym.Wrapper.__init__(self, env)
        seen = require_text(env, "ChatHistory", "observation")
        done = require_text(env, "ChatHistory", "action")
        self.tokenizer = None if tokenizer is None else load_tokenizer(tokenizer)
        if self.tokenizer is not None and not self.tokenizer.has_chat_template:
            raise ConfigError(
                f"tokenizer {tokenizer!r} has no chat template; leave the tokenizer out for "
                "plain messages"
            )
        self._settings = dict(chat_template_kwargs or {})
        longest = max(seen.max_length, done.max_length)
        if self.tokenizer is None:
            self.observation_space = Sequence(
                Dict(role=UnicodeText(16), content=UnicodeText(longest))
            )
        else:
            self.observation_space = UnicodeText(2**31 - 1)  # a template may add any text
        self._start: list[Message] = (
            [] if system is None else [{"role": "system", "content": system}]
        )
        self._messages: list[Message] = []
        self._tools: Any = None
        self._transcript = ""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode, whose prompt is the first user message."""
        observation, info = self.env.reset(seed=seed, options=options)
        begun = info.get("messages") or [{"role": "user", "content": observation}]
        self._messages, self._tools = self._after_start(begun), info.get("tools")
        self._transcript = observation
        shown = self._show()
        info = {**info, "messages": self._copies()}
        if self.tokenizer is not None and "turn" in info:
            info["turn"] = shown
        return shown, info

    def step(self, action: str) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Send the assistant's message, and add the environment's reply to the messages."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if "messages" in info:  # the environment's own
            self._messages = self._after_start(info["messages"])
        else:
            said = info["turn"] if "turn" in info else self._new(action, observation)
            self._messages.append({"role": "assistant", "content": action})
            if said or not (terminated or truncated):
                self._messages.append({"role": "user", "content": said})
        self._transcript = observation
        info = {**info, "messages": self._copies()}
        if self.tokenizer is not None and self._agent_is_next:
            info["turn"] = self.tokenizer.render_after_answer(
                self._messages, tools=self._tools, **self._settings
            )
        return self._show(), reward, terminated, truncated, info

    def _after_start(self, messages: list[Message]) -> list[Message]:
        """Messages after the system message of this wrapper, which takes in one of their own."""
        if not self._start or messages[0]["role"] != "system":
            return [*self._start, *messages]
        both = f"{self._start[0]['content']}\n\n{messages[0]['content']}"
        return [{"role": "system", "content": both}, *messages[1:]]

    def _new(self, action: str, observation: str) -> str:
        before = self._transcript + action
        return observation[len(before) :] if observation.startswith(before) else observation

    @property
    def _agent_is_next(self) -> bool:
        return self._messages[-1]["role"] != "assistant"

    def _copies(self) -> list[Message]:
        return copy.deepcopy(self._messages)

    def _show(self) -> Any:
        if self.tokenizer is None:
            # A call of a tool is text here: the space of the messages has these two keys.
            return tuple({"role": m["role"], "content": with_calls(m)} for m in self._messages)
        return self.tokenizer.render_chat(
            self._messages, self._agent_is_next, tools=self._tools, **self._settings
        )
