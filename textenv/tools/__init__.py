"""Runs the functions that a policy may call as tools, with a time limit.

The functions run in a separate process, which is killed if a call takes too long.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import numbers
from collections.abc import Callable, Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

from gymnasium.vector.utils import CloudpickleWrapper

from textenv.errors import ConfigError, ConfigTypeError, DataError
from textenv.rewards.calls import call_now
from textenv.rewards.limits import MOST_SECONDS, TIMED_OUT, Failed, run_limited
from textenv.spaces import has_lone_surrogate
from textenv.tools.calls import Call, read_calls
from textenv.tools.schema import schema_of, why_wrong

__all__ = ["Result", "Tool", "Tools"]

Tool = Callable[..., Any]
"""A function with type hints, whose docstring a model reads."""


class Result(NamedTuple):
    """What a call of a tool gave."""

    text: str
    """The result, or what went wrong."""
    malformed: bool = False
    """Whether the call could not be made."""
    failed: bool = False
    """Whether the function raised, took too long, or returned what is no text."""


class Tools:
    """The tools of an environment.

    Args:
        functions: a user's functions. They run in a process that all environments share, which
            takes half a second to start. What they change there is not seen here.
        timeout: seconds that one call may take. None: no limit, and they run in this process.
        trusted: functions that always run in this process, without a limit.

    Attributes:
        schemas: for each function, what a model is told of it.

    Raises:
        ConfigError: for a function without type hints, two of one name, or one that cannot be sent
            to the process.
        ConfigTypeError: if they are not a list of functions.
    """

    def __init__(
        self, functions: Sequence[Tool], timeout: float | None = 10.0, trusted: Sequence[Tool] = ()
    ):
        if callable(functions) or isinstance(functions, str) or not isinstance(functions, Sequence):
            raise ConfigTypeError(f"tools must be a list of functions, got {functions!r:.80}")
        if timeout is not None:
            _check_seconds(timeout)
        self._timeout = timeout
        self._here: dict[str, Tool] = {}
        self._sent: dict[str, CloudpickleWrapper[Any]] = {}
        self.schemas: list[dict[str, Any]] = []
        for function in [*trusted, *functions]:
            if not callable(function):
                raise ConfigTypeError(f"a tool must be a function, got {function!r:.80}")
            schema = schema_of(function)
            name = schema["function"]["name"]
            if name in self._here:
                raise ConfigError(f"two tools are called {name!r}: rename one")
            self.schemas.append(schema)
            self._here[name] = function
            if timeout is not None and function not in trusted:
                self._sent[name] = _sendable(name, function)
        self._by_name = dict(zip(self._here, self.schemas))

    def read(self, answer: str) -> list[Call]:
        """The calls in an answer, each with what is wrong with it."""
        return [self._checked(call) for call in read_calls(answer)]

    def run(self, call: Call) -> Result:
        """Make a call, and return its result or what went wrong."""
        if call.error:
            return Result(f"error: the tool call cannot be read: {call.error}", malformed=True)
        if call.name in self._sent:
            assert self._timeout is not None
            outcome = run_limited(_run, (self._sent[call.name], call.arguments), self._timeout)
        else:
            outcome = call_now(_in_words, (self._here[call.name], call.arguments))
        if outcome is TIMED_OUT:
            why = f"took longer than {self._timeout:g} s, and was stopped"
        elif isinstance(outcome, Failed):
            why = " ".join(outcome.message.split())
        else:
            return Result(outcome)
        return Result(f"error: {call.name} {why}", failed=True)

    def _checked(self, call: Call) -> Call:
        if call.error:
            return call
        if call.name not in self._by_name:
            known = ", ".join(self._by_name)
            return call._replace(error=f"there is no tool {call.name!r}; the tools: {known}")
        wrong = why_wrong(self._by_name[call.name], call.arguments)
        return call._replace(error=f"{call.name}: {wrong}" if wrong else "")


def _check_seconds(timeout: Any) -> None:
    real = isinstance(timeout, numbers.Real) and not isinstance(timeout, bool)
    if not real or not 0 < timeout <= MOST_SECONDS:
        raise ConfigError(
            "tool_timeout must be a number of seconds above 0 and at most 1e6, or None, got "
            f"{timeout!r:.80}"
        )


def _sendable(name: str, function: Tool) -> CloudpickleWrapper[Any]:
    """A function as it goes to the process, by value if it is one of a script or a notebook."""
    wrapped = CloudpickleWrapper(function)
    try:
        ForkingPickler.dumps(wrapped)
    except Exception as error:  # this runs code of the objects in it, which may raise anything
        raise ConfigError(
            f"tool {name!r} cannot be sent to the process that tools run in: {error}; "
            "tool_timeout=None runs it in this process, without a limit"
        ) from error
    return wrapped


def _run(wrapped: CloudpickleWrapper[Any], arguments: dict[str, Any]) -> str:
    """Call a function that was sent; this runs in the process."""
    return _in_words(wrapped.fn, arguments)


def _in_words(function: Tool, arguments: dict[str, Any]) -> str:
    """Call a function, and return its result as text: what is not text becomes JSON.

    Raises:
        DataError: for a result that JSON does not have.
    """
    result = function(**arguments)
    if inspect.iscoroutine(result):
        result = asyncio.run(result)
    if isinstance(result, str):
        if not result.isascii() and has_lone_surrogate(result):
            raise DataError("returned text with a lone surrogate, which UTF-8 cannot encode")
        return result
    try:
        return json.dumps(result, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(
            f"returned a {type(result).__name__}; a tool returns text, or what JSON has: {error}"
        ) from error
