"""Reads the calls of tools in an answer, and writes them and their tools as plain text.

A call is written as ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``. A policy whose
model has another format writes its calls like this before the environment sees them.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from textenv.spaces import has_lone_surrogate

START, END = "<tool_call>", "</tool_call>"
_CALL = re.compile(f"{START}(.*?)(?:{END}|\\Z)", re.DOTALL)
_THINKING, _THOUGHT = "<think>", "</think>"


class Call(NamedTuple):
    """A call of a tool, as the assistant wrote it."""

    name: str
    arguments: dict[str, Any]
    error: str = ""
    """What is wrong with the call; empty if it can be made."""


def read_calls(answer: str) -> list[Call]:
    """The calls in an answer, in order, without those within its thinking."""
    return [_read(match.group()) for match in _CALL.finditer(answer, _after_thinking(answer))]


def without_calls(answer: str) -> str:
    """An answer without its calls that can be read, and the space around them."""
    start = _after_thinking(answer)
    said = _CALL.sub(lambda m: m.group() if _read(m.group()).error else "", answer[start:])
    return (answer[:start] + said).strip()


def write_call(name: str, arguments: Any) -> str:
    """A call as text."""
    return f"{START}\n{_json({'name': name, 'arguments': arguments})}\n{END}"


def write_error(error: str, text: str) -> str:
    """A call that could not be read, as text that `read_calls` reads as a call with this error."""
    return f"{START}\n{_json({'error': error, 'text': text})}\n{END}"


def with_calls(message: Mapping[str, Any]) -> str:
    """The content of a message, followed by its ``tool_calls`` as text."""
    functions = [call["function"] for call in message.get("tool_calls") or ()]
    calls = [write_call(each["name"], each.get("arguments", {})) for each in functions]
    return "\n".join([*([message["content"]] if message["content"] else []), *calls])


def described(tools: Sequence[Any]) -> str:
    """Tools and how to call them, in words, for readers without a chat template that shows tools.

    Args:
        tools: their JSON schemas.
    """
    return (
        "You may call these functions:\n"
        + "\n".join(map(_json, tools))
        + "\nTo call one, write its name and its arguments as JSON, and wait for the result:\n"
        + f'{START}\n{{"name": "NAME", "arguments": {{"ARGUMENT": "VALUE"}}}}\n{END}'
    )


def _read(text: str) -> Call:
    if not text.endswith(END):
        return Call("", {}, f"{START} is not closed by {END}")
    inside = text[len(START) : -len(END)]
    try:
        call = json.loads(inside)
    except (ValueError, RecursionError) as error:  # also for too many digits or levels
        return Call("", {}, f"it is not JSON: {error}")
    if has_lone_surrogate(_json(call)):
        return Call("", {}, "it holds a lone surrogate")
    if not isinstance(call, dict):
        return Call("", {}, f"it is not an object with a name and arguments: {inside.strip():.80}")
    name, arguments = call.get("name"), call.get("arguments", {})
    if not isinstance(name, str):
        why = call.get("error")
        return Call("", {}, why if isinstance(why, str) else "it has no name")
    if isinstance(arguments, str):  # some models write the arguments as a text that is JSON
        with contextlib.suppress(ValueError, RecursionError):
            arguments = json.loads(arguments)
    if not isinstance(arguments, dict):
        return Call(name, {}, f"its arguments are not an object: {arguments!r:.80}")
    return Call(name, arguments)


def _after_thinking(answer: str) -> int:
    """Where an answer begins after its thinking; its end, if the thinking does not end."""
    start = answer.rfind(_THOUGHT) + len(_THOUGHT) if _THOUGHT in answer else 0
    return len(answer) if _THINKING in answer[start:] else start


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
