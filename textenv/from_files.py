"""Loads a user's own parts from a Python file: ``FILE.py:NAME`` names a task, a reward or a part.

The file becomes a module below this one, whose name is the path. Another process can therefore
import it again, and objects of its classes can be sent there. As with any module, the file is run
once in each process.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from textenv.errors import ConfigError, MissingFileError

__path__: list[str] = []  # lets modules be below this one; `_Finder` finds them


def split_name(text: str) -> tuple[str, str] | None:
    """The file and the name of ``FILE.py:NAME``; None if the text has another form."""
    path, ending, name = text.rpartition(".py:")
    return (f"{path}.py", name) if path and ending else None


def load(path: str, name: str, what: str) -> Any:
    """Run a file, and return what it calls by a name.

    Args:
        path: the file.
        name: the name in it.
        what: what is looked for, for messages: ``"task"``, for example.

    Raises:
        MissingFileError: if there is no such file.
        ConfigError: if the file cannot be run, or has no such name; says which names it has.
    """
    if not Path(path).is_file():
        raise MissingFileError(f"{path}:{name}: {path} is not a file")
    try:
        module = importlib.import_module(_module_name(os.path.abspath(path)))
    except Exception as error:  # it is the user's code, which may raise anything
        place = _line_of(error, os.path.abspath(path))
        raise ConfigError(
            f"{path}:{name}: {place or path}: {type(error).__name__}: {error}"
        ) from error
    if not hasattr(module, name):
        here = [key for key, value in vars(module).items() if _is_own(key, value, module)]
        raise ConfigError(
            f"{path}:{name}: {path} has no {what} {name!r}; it has {', '.join(here) or 'nothing'}"
        )
    return getattr(module, name)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules below this one: their files are in their names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The file that belongs to a name; None if the name is not below this module."""
        if not fullname.startswith(f"{__name__}."):
            return None
        file = fullname.removeprefix(f"{__name__}.").replace("%2E", ".").replace("%25", "%")
        return importlib.util.spec_from_file_location(fullname, file)


def _module_name(path: str) -> str:
    """The name of a file's module: the path, without dots, which would separate packages."""
    return f"{__name__}.{path.replace('%', '%25').replace('.', '%2E')}"


def _line_of(error: BaseException, path: str) -> str | None:
    """The last place in a file that an exception passed through; None if there is none."""
    if isinstance(error, SyntaxError) and error.filename == path:
        return f"{path}, line {error.lineno}"
    lines = [at.lineno for at in traceback.extract_tb(error.__traceback__) if at.filename == path]
    return f"{path}, line {lines[-1]}" if lines else None


def _is_own(name: str, value: Any, module: ModuleType) -> bool:
    """Whether a module made a value itself, as far as can be told, and shows it."""
    foreign = getattr(value, "__module__", module.__name__) != module.__name__
    return not (name.startswith("_") or isinstance(value, ModuleType) or foreign)


sys.meta_path.append(_Finder())
