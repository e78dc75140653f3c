"""Makes tasks by name: the built-in ones, those of other libraries, and a user's own.

A new built-in task is one file in `built_in` and one line in `BUILT_IN`. ``SOURCE:NAME`` is a
task of another library; a new library is one file in `libraries` and one line in `_SOURCES`.
``FILE.py:NAME`` is a task of a user's own file.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from textenv.errors import ConfigError, unknown
from textenv.from_files import split_name
from textenv.tasks import own_file
from textenv.tasks.base import NOTHING, STYLES, Episode, Example, GeneratedTask, Task, Turn
from textenv.tasks.built_in.arithmetic import Arithmetic
from textenv.tasks.built_in.calculator import Calculator
from textenv.tasks.built_in.countdown import Countdown
from textenv.tasks.built_in.guess_number import GuessNumber
from textenv.tasks.built_in.reverse import Reverse
from textenv.tasks.built_in.sort import Sort
from textenv.tasks.libraries import reasoning_gym, textarena

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
    "styles",
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
    """Names of all tasks that can be made; imports the other libraries that have tasks."""
    found = sorted(_factories)
    for source in _SOURCES.values():
        if source.installed():
            found += source.names()
    return found


def make(name: str, style: str | None = None, **kwargs: Any) -> Task:
    """Make a task by name.

    Args:
        name: the name.
        style: ``"plain"`` or ``"chat"``, if the task has it; None: the task's default.
        **kwargs: its difficulty settings and ``split``.

    Raises:
        ConfigError: for an unknown task, or a setting or a style that the task does not have.
        DataError: for the test split of a task of a file that has no splits.
        MissingDependencyError: for a task of a library that is not installed.
        MissingFileError: if there is no such file.
    """
    if style is not None:
        has = styles(name)
        if style not in has:
            raise ConfigError(
                f"task {name!r} has no style {style!r}; the styles it has: {', '.join(has)}"
            )
        if len(has) > 1:
            kwargs["style"] = style
    if (own := split_name(name)) is not None:
        return own_file.make(*own, **kwargs)
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
    """A description of a task in one line, without making the task; empty if there is none.

    Raises:
        ConfigError: for an unknown task.
        MissingDependencyError: for a task of a library that is not installed.
        MissingFileError: if there is no such file.
    """
    if (own := split_name(name)) is not None:
        return own_file.describe(*own)
    source, colon, rest = name.partition(":")
    if name in _factories:
        return (_factories[name].__doc__ or "").strip().partition("\n")[0]
    if colon and source in _SOURCES:
        return _SOURCES[source].describe(rest)
    raise ConfigError(_unknown(name))


def styles(name: str) -> tuple[str, ...]:
    """The styles of a task: plain, and chat too if it has the setting ``style``.

    Raises:
        ConfigError: for an unknown task.
        MissingFileError: if there is no such file.
    """
    if (own := split_name(name)) is not None:
        return STYLES if own_file.has_style(*own) else STYLES[:1]
    source, colon, _ = name.partition(":")
    if name not in _factories:
        if colon and source in _SOURCES:
            return STYLES
        raise ConfigError(_unknown(name))
    has_setting = "style" in inspect.signature(_factories[name]).parameters
    return STYLES if has_setting else STYLES[:1]


def register_task(name: str, factory: Callable[..., Task]) -> None:
    """Register a task under a name.

    Args:
        name: the name for ``gym.make("TextGen-v0", task=name)``.
        factory: a `Task` class, or a function that makes a task. It is called with ``split=`` and
            the user's ``task_kwargs``. If it has a parameter ``style``, the task has the styles
            ``"plain"`` and ``"chat"``.

    Raises:
        ConfigError: if the name is taken.
    """
    if name in _factories:
        raise ConfigError(f"task {name!r} is registered already")
    _factories[name] = factory


def _unknown(name: str) -> str:
    patterns = [*(f"{source}:NAME" for source in _SOURCES), "FILE.py:NAME"]
    return unknown("task", name, [*sorted(_factories), *patterns])
