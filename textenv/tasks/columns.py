"""Makes an example of a row of a file: names its columns, and knows the rows of GSM8K."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from textenv.errors import ConfigError, ConfigTypeError, DataError
from textenv.rewards.answers import as_number
from textenv.tasks.base import Example

_FINAL = re.compile(r"(?:\A|\n)[ \t]*####[ \t]*([^\n]*?)\s*\Z")  # the last line of GSM8K's answers

Columns = Mapping[str, str]
"""The name that an example has for each of some columns: ``{"question": "prompt"}``."""


def check_columns(columns: Columns | None) -> None:
    """Check an argument ``columns``.

    Raises:
        ConfigTypeError: if it does not map text to text.
        ConfigError: if it gives two columns the same name.
    """
    if columns is None:
        return
    if not isinstance(columns, Mapping) or not all(
        isinstance(text, str) for pair in columns.items() for text in pair
    ):
        raise ConfigTypeError(
            "columns must map names of columns to names of keys, as {'question': 'prompt'}, "
            f"got {columns!r:.100}"
        )
    for name in columns.values():
        if len(same := [column for column, new in columns.items() if new == name]) > 1:
            raise ConfigError(
                f"columns gives {' and '.join(map(repr, same))} the same name, {name!r}"
            )


def as_example(
    row: Mapping[str, Any], columns: Columns | None = None, all_text: bool = False
) -> Example:
    """The example that a row holds.

    Columns are named as ``columns`` says, and keep their names otherwise. Without a ``prompt``, the
    column ``question`` is the prompt. An answer whose last line is ``#### 1,234``, as those of
    GSM8K, becomes ``1234``; all of it is kept as ``solution``, if the row has no other. In a
    conversation without an ``answer``, the assistant's message at the end is read as one.

    Args:
        row: the row, with its names as the file has them.
        columns: new names for some of its columns.
        all_text: whether all values are text, as in a CSV file; a conversation is then JSON.

    Raises:
        DataError: if the row lacks one of these columns, or has another one of the new name.
    """
    example = _named(row, columns) if columns else dict(row)
    if all_text:
        _parse_messages(example)
    for key in ("prompt", "messages"):  # a table has the same columns in all rows
        if key in example and example[key] is None and len(example) > 1:
            del example[key]
    if "question" in example and not {"prompt", "messages"} & example.keys():
        example = {"prompt" if key == "question" else key: v for key, v in example.items()}
    answer = example["answer"] if "answer" in example else _said_last(example)
    if isinstance(answer, str) and (final := _FINAL.search(answer)) and final[1]:
        example["answer"] = _without_separators(final[1])
        example.setdefault("solution", answer)
    return example


def _parse_messages(example: Example) -> None:
    """Put the list of messages in the place of a conversation that is written as JSON."""
    for key in ("prompt", "messages"):
        text = example.get(key)
        if isinstance(text, str) and text.lstrip().startswith("["):
            try:
                found = json.loads(text)
            except (ValueError, RecursionError):  # a prompt that only begins like a list
                continue
            if found and all(isinstance(each, dict) and "role" in each for each in found):
                example[key] = found


def _said_last(example: Example) -> Any:
    """The content of the last message of a conversation, if it is the assistant's."""
    messages = example.get("messages") or example.get("prompt")
    last = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(last, Mapping) or last.get("role") != "assistant":
        return None
    return last.get("content")


def _named(row: Mapping[str, Any], columns: Columns) -> Example:
    for column, name in columns.items():
        if column not in row:
            raise DataError(
                f"there is no column {column!r}, which columns names; "
                f"the row has {', '.join(map(repr, row)) or 'no columns'}"
            )
        if name in row and name not in columns:
            raise DataError(
                f"columns gives {column!r} the name {name!r}, which another column has: name that "
                "one in columns too"
            )
    return {columns.get(key, key): value for key, value in row.items()}


def _without_separators(answer: str) -> str:
    """A number without commas between its thousands; another text as it is."""
    return answer.replace(",", "") if as_number(answer) is not None else answer
