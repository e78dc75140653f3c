"""Saves what a strategy remembers as a JSON file beside a model, and reads it back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from textenv.algos.storage.replacing import write_whole
from textenv.errors import ConfigError, DataError, MissingFileError

STRATEGY_FILE = "strategy.json"
_FORMAT = "textenv.strategy"


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write a state. The file appears whole or not at all.

    Raises:
        DataError: if a part remembers something that JSON cannot hold.
    """
    try:
        text = json.dumps({"format": _FORMAT, **state}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"the strategy's state cannot be written: {error}") from error
    write_whole(path, text + "\n")


def read_state(path: Path) -> dict[str, Any]:
    """Read a state that `write_state` wrote.

    Raises:
        MissingFileError: if there is no such file.
        DataError: if the file is something else.
    """
    if not path.is_file():
        raise MissingFileError(
            f"{path} is not a file: a training whose strategy has no parts writes none"
        )
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is cut off or not JSON: {error}") from error
    if not isinstance(state, dict) or state.pop("format", None) != _FORMAT:
        raise DataError(f"{path} is not the state of a strategy")
    return state


def go_on_from(path: Path, load: Callable[[dict[str, Any]], None]) -> None:
    """Give what a file has to a function that loads it; an error of the function names the file.

    Raises:
        MissingFileError, DataError: as `read_state`.
        ConfigError: if it is the state of something else.
    """
    state = read_state(path)
    try:
        load(state)
    except (ConfigError, DataError) as error:
        raise type(error)(f"{path}: {error}") from error
