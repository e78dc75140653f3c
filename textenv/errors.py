"""The exceptions of this package that report a wrong setting, file or reward function.

Each message says what was expected and what came. The command line prints it as one line and
exits with code 2. Every other exception is a bug in this package and keeps its traceback.
"""

import difflib
from collections.abc import Iterable
from typing import Any


class TextEnvError(Exception):
    """Base class of all errors that a user can correct."""


class ConfigError(TextEnvError, ValueError):
    """A setting has a value that is not allowed."""


class ConfigTypeError(TextEnvError, TypeError):
    """A setting or an argument has the wrong type."""


class DataError(TextEnvError, ValueError):
    """A file of examples, rollouts or weights is not valid; names the file and the place in it."""


class MissingFileError(TextEnvError, FileNotFoundError):
    """A file or folder does not exist."""


class StorageError(TextEnvError, OSError):
    """A file cannot be written, for the disk is full or the folder is not writable; names both."""


class RewardError(TextEnvError, ValueError):
    """A reward function raised an exception, or returned something other than a finite number.

    Attributes:
        details: the whole prompt and completion, and the traceback, if a rollout was collected.
    """

    details: dict[str, Any] | None = None


class RewardTimeoutError(RewardError, TimeoutError):
    """A reward function took longer than ``reward_timeout``, and ``reward_on_timeout`` is None."""


class RolloutError(TextEnvError, RuntimeError):
    """A rollout does not meet the requirements of its strategy."""


class OutOfMemoryError(TextEnvError, MemoryError):
    """There is too little memory; says what uses it, or which settings need less."""


class MissingDependencyError(TextEnvError, ImportError):
    """An optional package is not installed; says which extra installs it."""

    def __init__(self, package: str, extra: str, purpose: str):
        super().__init__(
            f"{purpose} needs {package}, which is not installed: {how_to_install(extra)}"
        )


def how_to_install(extra: str) -> str:
    """What messages say of an extra.

    They do not give pip the name ``textenv``, which on PyPI is not this package's.
    """
    return (
        f"the extra textenv[{extra}] brings it, pip install -e '.[{extra}]' "
        "in the folder of textenv's source"
    )


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """The error message for an unknown name, with the most similar name and all known names."""
    known = list(known)
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f"; did you mean {close[0]!r}? Known: " if close else "; known: "
    return f"unknown {what} {name!r}{hint}{', '.join(known)}"
