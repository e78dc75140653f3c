"""Renders messages by a model's chat template, and shows in other words what it does not take.

Templates differ in what they take. If one has no place for a system message, its text goes before
the first user's message. If one does not show tools, they are described in a system message. If one
does not show calls of tools or their results, a call is text in the assistant's message, and a
result is a user's message.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from textenv.errors import DataError, MissingDependencyError
from textenv.tools.calls import described, with_calls

Messages = Sequence[dict[str, Any]]

_ASKED = {"role": "user", "content": "question0"}
_MARK, _RESULT = "marked0", "result0"
_TOOL = {
    "type": "function",
    "function": {
        "name": _MARK,
        "description": "A test.",
        "parameters": {"type": "object", "properties": {"a": {"type": "string"}}},
    },
}
_CALL = {
    "id": "call00000",
    "type": "function",
    "function": {"name": _MARK, "arguments": {"a": "b"}},
}
_CALLED: list[dict[str, Any]] = [
    _ASKED,
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
    {"role": "tool", "name": _MARK, "tool_call_id": "call00000", "content": _RESULT},
]


class ChatTemplate:
    """A chat template that takes any messages.

    Args:
        render: renders messages, ``render(messages, add_generation_prompt, **settings) -> text``.
    """

    def __init__(self, render: Callable[..., str]):
        self._render = render
        self._shown: dict[str, bool] = {}

    def __call__(
        self, messages: Messages, add_generation_prompt: bool = True, **settings: Any
    ) -> str:
        """The text that the template makes of messages.

        Args:
            messages: ``{"role", "content"}`` in order.
            add_generation_prompt: whether to append what begins the model's answer.
            settings: what the template is given beside these, such as ``enable_thinking``, and
                ``tools``, the JSON schemas of tools.

        Raises:
            DataError: if the template does not take the messages; says why.
        """
        tools = settings.pop("tools", None)
        fitted = self._fitted(messages, tools, settings)
        if tools and self._shows_tools(settings):
            settings = {**settings, "tools": tools}
        try:
            return self._render(fitted, add_generation_prompt, **settings)
        except (MissingDependencyError, DataError):  # of a tokenizer that is loaded only now
            raise
        except Exception as error:  # a template may raise anything
            plain = _without_calls(fitted)
            if plain != fitted:  # such as a call that the template took for an answer
                return self(plain, add_generation_prompt, **settings)
            roles = ", ".join(str(message.get("role")) for message in messages)
            raise DataError(
                f"the model's chat template does not take messages of the roles {roles}: {error}"
            ) from error

    def _fitted(
        self, messages: Messages, tools: Any, settings: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """The messages with what the template does not show put in other words."""
        fitted = [dict(message) for message in messages]
        if tools and not self._shows_tools(settings):
            fitted = _begun_with(described(tools), fitted)
        if fitted and fitted[0].get("role") == "system" and not self._shows_system(settings):
            fitted = _as_user(fitted)
        calls = any(m.get("role") == "tool" or m.get("tool_calls") for m in fitted)
        return _without_calls(fitted) if calls and not self._shows_calls(settings) else fitted

    def _shows_system(self, settings: dict[str, Any]) -> bool:
        system = {"role": "system", "content": _MARK}
        return self._shows("system", [system, _ASKED], [_MARK], settings)

    def _shows_tools(self, settings: dict[str, Any]) -> bool:
        return self._shows("tools", [_ASKED], [_MARK], {**settings, "tools": [_TOOL]})

    def _shows_calls(self, settings: dict[str, Any]) -> bool:
        return self._shows("calls", _CALLED, [_MARK, _RESULT], settings)

    def _shows(
        self, what: str, messages: Messages, marks: Sequence[str], settings: dict[str, Any]
    ) -> bool:
        """Whether these marks are in what the template makes of messages."""
        key = f"{what} {settings!r}"
        if key not in self._shown:
            try:
                text = self._render([dict(message) for message in messages], True, **settings)
            except MissingDependencyError:
                raise
            except Exception:  # a template refuses a role by raising anything
                text = ""
            self._shown[key] = all(mark in text for mark in marks)
        return self._shown[key]


def _begun_with(text: str, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages with a text at the end of their system message, which is added if there is none."""
    if messages and messages[0].get("role") == "system":
        first = {**messages[0], "content": f"{messages[0]['content']}\n\n{text}"}
        return [first, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def _as_user(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages whose system message is the beginning of the first user's message."""
    system, *rest = messages
    if rest and rest[0].get("role") == "user":
        content = f"{system['content']}\n\n{rest[0]['content']}"
        return [{**rest[0], "content": content}, *rest[1:]]
    return [{**system, "role": "user"}, *rest]


def _without_calls(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages whose calls are text, and whose results are messages of the user."""
    plain: list[dict[str, Any]] = []
    for before, message in zip([{}, *messages], messages):
        if message.get("role") == "tool":
            result = f"<tool_response>\n{message['content']}\n</tool_response>"
            if before.get("role") == "tool":
                plain[-1] = {**plain[-1], "content": f"{plain[-1]['content']}\n{result}"}
            else:
                plain.append({"role": "user", "content": result})
        elif message.get("tool_calls"):
            plain.append({"role": message["role"], "content": with_calls(message)})
        else:
            plain.append(message)
    return plain
