"""Encodes what a language model reads: plain text, or a conversation by its chat template.

A conversation is only ever added to: the tokens of earlier turns stay those that the policy read
and sampled, whatever the template makes of earlier turns later. What stands between an answer and
the next one is what the template puts there, taken from a rendering of the conversation.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from textenv.errors import ConfigError, DataError
from textenv.tokenizers import load_tokenizer
from textenv.tools.calls import with_calls

Messages = Sequence[Mapping[str, Any]]
"""``{"role", "content"}`` in order."""

Tools = Sequence[Any] | None
"""The JSON schemas of the tools that the model may call."""

_ASKED = {"role": "user", "content": "question0"}
_ANSWERED = {"role": "assistant", "content": "b"}


class ChatFormat:
    """Encodes prompts and conversations for one tokenizer, and knows what ends an answer.

    Args:
        tokenizer: any that `textenv.tokenizers.load_tokenizer` takes.
        chat_template: whether prompts go through the chat template; None: if there is one.
        settings: what the template is given beside the messages, such as ``enable_thinking``.

    Attributes:
        templated: whether prompts go through the chat template.
        ends: ids of the tokens that end an answer, in ascending order: the tokenizer's EOS, and
            the token that the chat template puts after an answer.

    Raises:
        ConfigError: for a chat template, or settings of one, that the tokenizer does not have.
    """

    def __init__(
        self,
        tokenizer: Any,
        chat_template: bool | None = None,
        settings: Mapping[str, Any] | None = None,
    ):
        self._tokenizer = load_tokenizer(tokenizer)
        self._settings = dict(settings or {})
        has_template = self._tokenizer.has_chat_template
        if (chat_template or self._settings) and not has_template:
            what = "chat_template is on" if chat_template else "chat_template_kwargs are given"
            raise ConfigError(f"{what}, and the tokenizer has no chat template")
        self.templated = has_template if chat_template is None else chat_template
        self.ends = sorted(self._tokenizer.eos_token_ids)
        self._closing = 1  # how many tokens after an answer are looked through for its end
        self._markers: tuple[str, ...] = ()
        self._after_prompt: tuple[str, ...] = ()
        self._opened = ""  # the thinking that the template begins an answer with
        self._warned = False
        if has_template:
            try:
                self._read_template()
            except DataError as error:
                if self.templated:
                    raise
                warnings.warn(
                    f"{error}; only the EOS tokens {self.ends} end an answer", stacklevel=4
                )

    def begin(self, text: str, messages: Messages | None = None, tools: Tools = None) -> list[int]:
        """Token ids up to the first answer.

        Args:
            text: the prompt. If the template has been applied to it, that is not done again.
            messages: the conversation; None: the prompt as a user's message.
            tools: the tools that the template shows.

        Raises:
            DataError: if the chat template does not take the messages.
        """
        if not self.templated or (messages is None and self.is_rendered(text)):
            return self._tokenizer.encode_prompt(text)
        messages = [{"role": "user", "content": text}] if messages is None else messages
        shown = self._tokenizer.render_chat(messages, **self._with(tools))
        return self._tokenizer.encode(shown, add_special_tokens=False)

    def go_on(
        self,
        context: Sequence[int],
        said: str,
        messages: Messages | None = None,
        rendered: bool = False,
        tools: Tools = None,
    ) -> list[int]:
        """Token ids up to the next answer: those so far, and what stands between the answers.

        An answer that was cut off is closed as the template closes one.

        Args:
            context: all token ids so far, the last answer's included.
            said: what the environment said after the last answer.
            messages: the conversation up to this; None: an answer, and then a user who says this.
            rendered: whether the template has been applied to what was said.
            tools: the tools that the template shows.

        Raises:
            DataError: if the chat template does not take the messages, or does not show an answer.
        """
        if self.templated and not rendered:
            if messages is None:
                messages = [_ASKED, _ANSWERED, {"role": "user", "content": said.strip()}]
            said = self._tokenizer.render_after_answer(messages, **self._with(tools))
        between = self._tokenizer.encode(said, add_special_tokens=False)
        if context and context[-1] in self.ends and context[-1] in between[: self._closing]:
            between = between[between.index(context[-1]) + 1 :]  # the policy has sampled the end
        return [*context, *between]

    def answer(
        self,
        message: Mapping[str, Any],
        text: str,
        messages: Messages | None = None,
        tools: Tools = None,
    ) -> list[int]:
        """Token ids of a given answer, as the policy would have to write them, with their end.

        They are what the chat template puts after the beginning of the answer, up to its end. If
        there is no template, they are the content and the tokenizer's EOS, if it has one.

        Args:
            message: the answer, an assistant's message.
            text: the prompt; over several turns, the transcript up to the answer.
            messages: the conversation up to the answer, as in `begin`.
            tools: the tools that the template shows.

        Raises:
            DataError: if the chat template does not take the messages, or does not show an answer.
        """
        content = written = with_calls(message)
        settings = self._with(tools)
        special = not self.templated or (messages is None and self.is_rendered(text))
        if self.templated:
            asked = [_ASKED] if special else messages or [{"role": "user", "content": text}]
            if not special:
                text = self._tokenizer.render_chat(asked, **settings)
            whole = self._tokenizer.render_chat([*asked, message], False, **settings)
            if not special and whole.startswith(text):
                written = whole.removeprefix(text)
            else:  # such as thinking that the template begins, and does not show later
                closing = [*asked, message]
                written += self._tokenizer.render_after_answer(closing, False, **settings)
        ids = self._following(text, written, special)
        if self.templated:
            ends = [place for place, token in enumerate(ids) if token in self.ends]
            if len(ends) > 1:  # that of the template follows those that the content has
                inside = self._tokenizer.encode(content, add_special_tokens=False)
                ends = ends[sum(token in self.ends for token in inside) :]
            if ends:
                return ids[: ends[0] + 1]
        eos = getattr(self._tokenizer.backend, "eos_token_id", None)
        eos = eos if eos in self._tokenizer.eos_token_ids else next(iter(self.ends), None)
        return ids if eos is None else [*ids, eos]

    def _following(self, text: str, more: str, special: bool) -> list[int]:
        """Token ids of a text that follows another one.

        Some tokenizers put a space before whatever they encode, so both are encoded together. If
        the bound falls into a token then, the text is encoded alone.
        """
        alone = partial(self._tokenizer.encode, add_special_tokens=False)
        encode = self._tokenizer.encode_prompt if special else alone
        before, whole = encode(text), encode(text + more)
        return whole[len(before) :] if whole[: len(before)] == before else alone(more)

    def opened(self, text: str, messages: Messages | None = None) -> str:
        """What an answer begins with that the template has written before it, such as ``<think>``.

        It is empty if the template does not begin the answers to this prompt.
        """
        if not self._opened or not self.templated:
            return ""
        return "" if messages is None and self.is_rendered(text) else self._opened

    def _with(self, tools: Tools) -> dict[str, Any]:
        """The settings of the template, and the tools if there are any."""
        return {**self._settings, "tools": tools} if tools else self._settings

    def is_rendered(self, text: str) -> bool:
        """Whether a text has been through the chat template, which the first one is warned of.

        It then begins with a special token of the template, or ends with what that puts there.
        """
        whole = text.startswith(self._markers) or text.endswith(self._after_prompt)
        rendered = self.templated and whole
        if rendered and not self._warned:
            self._warned = True
            warnings.warn(
                f"prompt {text[:40]!r} begins or ends as the chat template has it: it is taken as "
                "rendered already, and read as it is (chat_template=False says so without a doubt)",
                stacklevel=6,
            )
        return rendered

    def _read_template(self) -> None:
        """Find the template's special tokens, and the one that it puts after an answer."""
        tokenizer = self._tokenizer
        special = tokenizer.special_ids - {getattr(tokenizer.backend, "unk_token_id", None)}
        asked = tokenizer.render_chat([_ASKED], **self._settings)
        markers = special.intersection(tokenizer.encode(asked, add_special_tokens=False))
        self._markers = tuple(filter(None, (tokenizer.decode([i]) for i in markers)))
        after = asked.rpartition(_ASKED["content"])[2]
        self._after_prompt = (after,) if after.strip() else ()
        begin = getattr(tokenizer.backend, "think_start", None) or "<think>"
        end = getattr(tokenizer.backend, "think_end", None) or "</think>"
        _, found, thought = after.rpartition(begin)
        if found and end not in thought:
            self._opened = found + thought
        closing = tokenizer.render_after_answer([_ASKED, _ANSWERED], False, **self._settings)
        for count, token in enumerate(tokenizer.encode(closing, add_special_tokens=False), 1):
            if token in special:
                self._closing = count
                self.ends = sorted({*self.ends, token})
                return
