"""Tasks by name. A new one is one file here and one line in `BUILT_IN`.

``SOURCE:NAME`` is a task of another library; a new one of these is one line in `_SOURCES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from textenv.errors import ConfigError, unknown
from textenv.tasks import reasoning_gym, textarena
from textenv.tasks.arithmetic import Arithmetic
from textenv.tasks.base import NOTHING, Episode, Example, GeneratedTask, Task, Turn
from textenv.tasks.calculator import Calculator
from textenv.tasks.countdown import Countdown
from textenv.tasks.guess_number import GuessNumber
from textenv.tasks.reverse import Reverse
from textenv.tasks.sort import Sort

__all__ = [
    "NOTHING",
    "Episode",
    "Example",
    "GeneratedTask",
    "Task",
    "Turn",
    "describe",
    "make",
    "names",
    "register_task",
]

BUILT_IN: tuple[type[GeneratedTask], ...] = (
    Arithmetic,
    Calculator,
    Countdown,
    GuessNumber,
    Reverse,
    Sort,
)
_SOURCES = {module.SOURCE: module for module in (reasoning_gym, textarena)}
_factories: dict[str, Callable[..., Task]] = {task.name: task for task in BUILT_IN}


def names() -> list[str]:
    """Names of all the tasks that can be made here; imports the libraries that bring some."""
    found = sorted(_factories)
    for source in _SOURCES.values():
        if source.installed():
            found += source.names()
    return found


def make(name: str, **kwargs: Any) -> Task:
    """Make a task by name; ``kwargs`` are its difficulty parameters and ``split``.

    Raises:
        ConfigError: for an unknown task, or a parameter that it does not have.
        MissingDependencyError: for a task of a library that is not installed.
    """
    source, colon, rest = name.partition(":")
    factory = _factories.get(name)
    if factory is None and colon and source in _SOURCES:
        return _SOURCES[source].make(rest, **kwargs)
    if factory is None:
        raise ConfigError(_unknown(name))
    try:
        return factory(**kwargs)
    except TypeError as error:
        raise ConfigError(f"task {name!r}: {error}") from error


def describe(name: str) -> str:
    """A task in one line, without making it; empty where nobody describes it.

    Raises:
        ConfigError: for an unknown task.
        MissingDependencyError: for a task of a library that is not installed.
    """
    source, colon, rest = name.partition(":")
    if name in _factories:
        return (_factories[name].__doc__ or "").strip().partition("\n")[0]
    if colon and source in _SOURCES:
        return _SOURCES[source].describe(rest)
    raise ConfigError(_unknown(name))


def register_task(name: str, factory: Callable[..., Task]) -> None:
    """Add a task under a name.

    Args:
        name: the name for ``gym.make("TextGen-v0", task=name)``.
        factory: a `Task` class or function that makes one; it is given ``split=`` and
            whatever ``task_kwargs`` the user passes.

    Raises:
        ConfigError: where the name is taken.
    """
    if name in _factories:
        raise ConfigError(f"task {name!r} is registered already")
    _factories[name] = factory


def _unknown(name: str) -> str:
    patterns = [f"{source}:NAME" for source in _SOURCES]
    return unknown("task", name, [*sorted(_factories), *patterns])
