"""Makes the task of a user's own file: ``FILE.py:NAME`` is a class, a function or an object."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

from textenv.errors import ConfigError, DataError
from textenv.from_files import load
from textenv.tasks.base import Task
from textenv.tasks.dataset import Dataset


def make(path: str, name: str, split: str = "train", **settings: Any) -> Task:
    """Make the task that a file calls by a name.

    A class, or a function that makes a task, is called with the settings, and with ``split`` if it
    takes one. An object is taken as it is. If it is a dataclass, settings and ``split`` replace its
    fields.

    Raises:
        MissingFileError: if there is no such file.
        ConfigError: for a name that is not there or not a task, or a setting that it does not have.
        DataError: for the test split of a task that has no splits.
    """
    place = f"{path}:{name}"
    found = load(path, name, "task")
    try:
        if isinstance(found, Task):
            task = _changed(found, place, split, settings)
        elif callable(found) and not (inspect.isclass(found) and not issubclass(found, Task)):
            task = _called(found, place, split, settings)
        else:
            raise ConfigError(_no_task(place, found))
    except TypeError as error:  # a setting that is not there; a class that is not complete
        raise ConfigError(f"task {place!r}: {error}") from error
    if not isinstance(task, Task):
        raise ConfigError(_no_task(place, task))
    if not isinstance(getattr(task, "name", None), str):
        raise ConfigError(f"task {place!r} has no name: write name = {name.lower()!r} in its class")
    return task


def has_style(path: str, name: str) -> bool:
    """Whether a task of a file has the setting ``style``, and so the styles plain and chat."""
    found = load(path, name, "task")
    if dataclasses.is_dataclass(found):
        return any(field.name == "style" for field in dataclasses.fields(found))
    if not callable(found) or (inspect.isclass(found) and not issubclass(found, Task)):
        return False
    return "style" in inspect.signature(found).parameters


def describe(path: str, name: str) -> str:
    """The first line of the docstring of what a file calls by a name."""
    return (inspect.getdoc(load(path, name, "task")) or "").partition("\n")[0]


def _changed(task: Task, place: str, split: str, settings: dict[str, Any]) -> Task:
    """A task with another split and other settings."""
    if isinstance(task, Dataset) and not settings:
        return task.in_split(split)
    if dataclasses.is_dataclass(task) and not isinstance(task, type):
        known = {field.name for field in dataclasses.fields(task)}
        if "split" in known:
            return dataclasses.replace(task, split=split, **settings)  # type: ignore[arg-type]
        _refuse_split(place, split)
        return dataclasses.replace(task, **settings)
    if settings:
        raise ConfigError(
            f"task {place!r} is an object, which takes no settings (task_kwargs): name its class"
        )
    _refuse_split(place, split)
    return task


def _called(make: Callable[..., Any], place: str, split: str, settings: dict[str, Any]) -> Any:
    """What a class or a function makes."""
    parameters = inspect.signature(make).parameters
    if "split" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return make(split=split, **settings)
    _refuse_split(place, split)
    return make(**settings)


def _refuse_split(place: str, split: str) -> None:
    if split != "train":
        raise DataError(f"task {place!r} takes no split, so it has no {split} examples of its own")


def _no_task(place: str, found: Any) -> str:
    came = found.__name__ if isinstance(found, type) else type(found).__name__
    return (
        f"{place} is no task: expected a class that derives from textenv.tasks.Task, an object of "
        f"one, or a function that makes one; got {came}"
    )
