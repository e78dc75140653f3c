"""Conversations as lists of messages: checks them, and shows them as plain text.

A message is ``{"role", "content"}``. An assistant's message may have ``tool_calls`` too, and a
tool's message the ``name`` of the tool and a ``tool_call_id``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from textenv.errors import DataError
from textenv.spaces import has_lone_surrogate
from textenv.tools.calls import described, with_calls

Message = dict[str, Any]
"""``{"role", "content"}``, and further keys for calls of tools."""

ROLES = ("system", "user", "assistant", "tool")

NEXT = "Assistant:\n"
"""What a transcript ends with when the assistant is next."""


def check(messages: Any, place: str) -> list[Message]:
    """Copies of messages that are known to be right.

    A content may also be a list of parts ``{"type": "text", "text"}``, which are joined. Keys whose
    value is None, as tables have them, are left out.

    Args:
        messages: a list of messages.
        place: where they come from, for errors.

    Raises:
        DataError: for what is not a list of messages; names the message, counted from 0.
    """
    if isinstance(messages, str) or not isinstance(messages, Sequence):
        raise DataError(f"{place}: expected a list of messages, got {type(messages).__name__}")
    if not messages:
        raise DataError(f"{place}: an empty list; expected at least one message")
    return [_checked(message, f"{place}, message {i}") for i, message in enumerate(messages)]


def with_messages(row: Mapping[str, Any], place: str) -> dict[str, Any]:
    """A row of a dataset that holds a conversation, with its ``messages`` and a text ``prompt``.

    The conversation is the list under ``messages``, or under ``prompt``. If the assistant's message
    is the last one, it is the ``answer``, unless the row has an answer already.

    Args:
        row: the row.
        place: the name of the row, for errors.

    Raises:
        DataError: if both keys are lists, or a message is wrong.
    """
    row = dict(row)
    prompt, messages = row.get("prompt"), row.get("messages")
    if messages is None:
        messages, key = prompt, "prompt"
    elif prompt is None or isinstance(prompt, str):
        key = "messages"
    else:
        raise DataError(
            f"{place}: 'messages' and 'prompt' both hold a conversation; leave one of them out"
        )
    messages = check(messages, f"{place}, {key!r}")
    if messages[-1]["role"] == "assistant":
        answer = messages.pop()
        row.setdefault("answer", answer["content"])
        if not messages:
            raise DataError(f"{place}, {key!r}: only the assistant's message; expected a user's")
    return {**row, "prompt": transcript(messages), "messages": messages}


def transcript(messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] = ()) -> str:
    """A conversation as plain text, in which the assistant is next.

    One user's message alone is its content, unchanged. All others are labelled by their roles.

    Args:
        messages: the conversation so far.
        tools: the JSON schemas of the tools that the assistant may call.

    Example:
        >>> transcript([{"role": "user", "content": "Hi"}])
        'Hi'
        >>> print(transcript([{"role": "system", "content": "Be brief."},
        ...                   {"role": "user", "content": "Hi"}]) + "Ho")
        System:
        Be brief.
        <BLANKLINE>
        User:
        Hi
        <BLANKLINE>
        Assistant:
        Ho
    """
    if len(messages) == 1 and messages[0]["role"] == "user" and not tools:
        return str(messages[0]["content"])
    told = f"Tools:\n{described(tools)}\n\n" if tools else ""
    return told + "".join(f"{labelled(message)}\n\n" for message in messages) + NEXT


def replies(messages: Sequence[Mapping[str, Any]], over: bool) -> str:
    """The part of a transcript that follows an answer, up to the next answer.

    Args:
        messages: what was said since the answer.
        over: whether the episode is over, so that nobody is next.
    """
    parts = [*map(labelled, messages), *(() if over else (NEXT,))]
    return "".join(f"\n\n{part}" for part in parts)


def labelled(message: Mapping[str, Any]) -> str:
    """A message with its role as a label."""
    return f"{message['role'].capitalize()}:\n{with_calls(message)}"


def _checked(message: Any, place: str) -> Message:
    if not isinstance(message, Mapping):
        raise DataError(
            f"{place}: expected an object with 'role' and 'content', got {type(message).__name__}"
        )
    message = {key: value for key, value in message.items() if value is not None}
    if message.get("tool_calls") == []:
        del message["tool_calls"]
    if message.get("role") not in ROLES:
        came = repr(message["role"]) if "role" in message else "no role"
        raise DataError(f"{place}: 'role' must be one of {', '.join(ROLES)}, got {came}")
    calls = message.get("tool_calls")
    if calls is not None:
        _check_calls(calls, place, message["role"])
        message.setdefault("content", "")
    if "content" not in message:
        has = ", ".join(map(repr, message))
        raise DataError(f"{place}: key 'content' is missing; the message has {has}")
    message["content"] = _text(message["content"], place)
    return message


def _check_calls(calls: Any, place: str, role: str) -> None:
    if role != "assistant":
        raise DataError(f"{place}: 'tool_calls' belong to the assistant, got role {role!r}")
    for call in calls if isinstance(calls, Sequence) else [calls]:
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise DataError(
                f"{place}: 'tool_calls' must be a list of objects with a 'function' that has a "
                f"'name' and 'arguments', got {call!r:.80}"
            )


def _text(content: Any, place: str) -> str:
    """The text of a content, whose parts are joined."""
    if isinstance(content, Sequence) and not isinstance(content, str):
        for i, part in enumerate(content):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            if kind != "text" or not isinstance(part.get("text"), str):
                raise DataError(f"{place}: part {i} of 'content' is {kind!r}; expected 'text'")
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise DataError(f"{place}: 'content' must be text, got {type(content).__name__}")
    if has_lone_surrogate(content):
        raise DataError(f"{place}: 'content' holds a lone surrogate")
    return content
