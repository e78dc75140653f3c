"""Errors that a user can mend: what was expected, what came, what to do.

The command line prints these as one line and exits with code 2; everything else
is a fault of this package and keeps its traceback.
"""

import difflib
from collections.abc import Iterable


class TextEnvError(Exception):
    """Base of every error that a user can mend."""


class ConfigError(TextEnvError, ValueError):
    """A setting has a value that cannot be used."""


class ConfigTypeError(TextEnvError, TypeError):
    """A setting or an argument has the wrong type."""


class DataError(TextEnvError, ValueError):
    """A file of examples, rollouts or weights cannot be used; names the file and the place."""


class MissingFileError(TextEnvError, FileNotFoundError):
    """A file or folder is not there."""


class RewardError(TextEnvError, ValueError):
    """A reward function raised, or returned something that is not a finite number."""


class RewardTimeoutError(RewardError, TimeoutError):
    """A reward function took longer than ``reward_timeout``, and no score is set for that."""


class RolloutError(TextEnvError, RuntimeError):
    """A rollout did not come to what its strategy demands of it."""


class OutOfMemoryError(TextEnvError, MemoryError):
    """There is too little memory; says what takes it, or which settings need less."""


class MissingDependencyError(TextEnvError, ImportError):
    """An optional package is not installed; says which extra brings it."""

    def __init__(self, package: str, extra: str, purpose: str):
        super().__init__(
            f"{purpose} needs {package}, which is not installed: pip install 'textenv[{extra}]'"
        )


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """The message for a name that is not known: the nearest one, and all of them."""
    known = list(known)
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f"; did you mean {close[0]!r}? Known: " if close else "; known: "
    return f"unknown {what} {name!r}{hint}{', '.join(known)}"
