"""Loads a reward function from a Python file that is named on a command line."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from textenv.errors import ConfigError, MissingFileError
from textenv.rewards.calls import is_async


def load(path: str, name: str) -> Callable[..., Any]:
    """The function that a file calls by this name.

    Raises:
        MissingFileError: if the file does not exist.
        ConfigError: if the file has no such function.
    """
    made = FileFunction(path, name)
    # An async function runs in this process, and must be known as such.
    return made.__wrapped__ if is_async(made.__wrapped__) else made


class FileFunction:
    """A function of a file, which another process can load again.

    Args:
        path: the file.
        name: the function's name in it.
    """

    __wrapped__: Callable[..., Any]

    def __init__(self, path: str, name: str):
        if not Path(path).is_file():
            raise MissingFileError(f"--reward {path}:{name}: {path} is not a file")
        spec = importlib.util.spec_from_file_location(Path(path).stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        function = getattr(module, name, None)
        if not callable(function):
            raise ConfigError(f"--reward {path}:{name}: {path} has no function {name!r}")
        self._place = str(Path(path).resolve()), name
        functools.update_wrapper(self, function)

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        """Call the function."""
        return self.__wrapped__(*arguments, **settings)

    def __reduce__(self) -> Any:
        return FileFunction, self._place

    def __deepcopy__(self, memo: dict[int, Any]) -> FileFunction:
        """The same object, as of any function: loading the file twice may register it twice."""
        return self
