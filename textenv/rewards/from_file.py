"""Loads a reward function from a Python file that is named on a command line."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from textenv import from_files
from textenv.errors import ConfigError
from textenv.rewards.calls import is_async


def load(path: str, name: str) -> Callable[..., Any]:
    """The function that a file calls by this name.

    Raises:
        MissingFileError: if the file does not exist.
        ConfigError: if the file cannot be run, or has no such function.
    """
    made = FileFunction(path, name)
    # An async function runs in this process, and must be known as such.
    return made.__wrapped__ if is_async(made.__wrapped__) else made


class FileFunction:
    """A function of a file, which another process can load again, whatever made the function.

    Args:
        path: the file.
        name: the function's name in it.
    """

    __wrapped__: Callable[..., Any]

    def __init__(self, path: str, name: str):
        function = from_files.load(path, name, "function")
        if not callable(function):
            raise ConfigError(
                f"{path}:{name}: {path} has no function {name!r}: it is of type "
                f"{type(function).__name__}"
            )
        functools.update_wrapper(self, function)
        if getattr(function, "__name__", "<lambda>") == "<lambda>":  # also of an object
            self.__name__ = name
        self._place = str(Path(path).resolve()), name

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        """Call the function."""
        return self.__wrapped__(*arguments, **settings)

    def __reduce__(self) -> Any:
        return FileFunction, self._place

    def __deepcopy__(self, memo: dict[int, Any]) -> FileFunction:
        """The same object, as of any function."""
        return self
