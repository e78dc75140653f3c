"""Reads the calls of tools that a model writes in its own format, as environments read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from textenv.tools.calls import read_calls, write_call, write_error


class CallFormat:
    """Writes the calls in an answer as ``<tool_call>{"name", "arguments"}</tool_call>``.

    The formats are those of mlx-lm, whose tokenizer knows the one of its model. An answer of a
    model without such a format stays as it is.

    Args:
        tokenizer: mlx-lm's tokenizer wrapper, or any other.
    """

    def __init__(self, tokenizer: Any):
        parse: Callable[..., Any] | None = getattr(tokenizer, "tool_parser", None)
        # JSON between the same marks is what environments read.
        same = getattr(parse, "__module__", "").endswith(".json_tools")
        self._parse = None if same else parse
        self._start: str = getattr(tokenizer, "tool_call_start", None) or ""
        self._end: str = getattr(tokenizer, "tool_call_end", None) or ""

    def plain(self, answer: str, tools: Sequence[Any]) -> str:
        """The answer with each of its calls as environments read them.

        A call that the format does not allow becomes one that says what is wrong with it.

        Args:
            answer: as the model wrote it.
            tools: the JSON schemas of the tools.
        """
        if self._parse is None or not self._start:
            return answer
        out, rest = "", answer
        while self._start in rest:
            before, _, rest = rest.partition(self._start)
            inside, end, after = rest.partition(self._end) if self._end else (rest, "", "")
            out += before + self._call(inside, end, tools)
            rest = after
        return out + rest

    def _call(self, inside: str, end: str, tools: Sequence[Any]) -> str:
        """One call, or what it holds of several."""
        written = self._start + inside + end
        assert self._parse is not None
        if any(not call.error for call in read_calls(written)):
            return written
        if self._end and not end:
            return write_error(f"{self._start} is not closed by {self._end}", inside)
        try:
            parsed = self._parse(inside, tools)
            calls = [parsed] if isinstance(parsed, dict) else list(parsed)
            return "\n".join(write_call(call["name"], call["arguments"]) for call in calls)
        except Exception as error:  # the parsers raise whatever their text makes them raise
            return write_error(" ".join(str(error).split()) or type(error).__name__, inside)
