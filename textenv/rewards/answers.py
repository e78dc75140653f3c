"""Reads the answer of an example as text and as a number, and tells if it is missing."""

from __future__ import annotations

import numbers
import re
from collections.abc import Mapping, Sequence, Set
from typing import Any

from textenv.errors import DataError
from textenv.rewards.quantities import as_quantity

_WHOLE = re.compile(r"[+-]?\d+\.0")
_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
_LONGEST_NUMBER = 400  # characters; the largest float has 309 digits


def why_missing(example: Mapping[str, Any]) -> str | None:
    """What is wrong with the ``answer`` of an example that has this key; None if it can be used.

    None, NaN and blank text are what an empty cell of a table becomes.
    """
    answer = example.get("answer", "not checked here")
    if isinstance(answer, str):
        is_missing = not answer or answer.isspace()
    else:
        is_missing = answer is None or (isinstance(answer, numbers.Number) and answer != answer)
        if isinstance(answer, (Mapping, Sequence, Set)):
            return f"'answer' must be text or a number, got {type(answer).__name__}"
    return f"'answer' is missing: it is {answer!r}" if is_missing else None


def why_no_number(example: Mapping[str, Any]) -> str | None:
    """What is wrong with an ``answer`` that should be a number; None if it can be used."""
    why = why_missing(example)
    if why is not None or "answer" not in example:
        return why
    answer = example["answer"]
    if as_number(answer) is None and not (isinstance(answer, str) and as_quantity(answer)):
        return f"'answer' must be a finite number, got {answer!r:.60}"
    return None


def answer_of(example: Mapping[str, Any]) -> Any:
    """The ``answer`` of an example.

    Raises:
        DataError: if it is missing.
    """
    why = why_missing(example)
    if why is not None:
        raise DataError(f"the example of the prompt {example.get('prompt')!r:.60}: {why}")
    return example["answer"]


def as_text(answer: Any) -> str:
    """An answer as text; 42 for the float 42.0, which pandas makes of 42 beside a missing value."""
    if isinstance(answer, float) and answer.is_integer():
        return str(int(answer))
    return str(answer).strip()


def texts_of(answer: Any) -> list[str]:
    """The texts that equal an answer: for 42.0, also if it is text as in a CSV file, 42 too."""
    text = str(answer).strip()
    whole = as_text(answer)
    if _WHOLE.fullmatch(text):
        whole = text[:-2]
    return [text] if whole == text else [whole, text]


def as_number(value: Any) -> float | None:
    """The number that a value is or that a text consists of; None if it is none, or not finite.

    Thousands may be separated by commas. Python's own notation ``4_2`` is not a number in a text.
    """
    try:
        if isinstance(value, str):
            text = value.strip()
            if len(text) > _LONGEST_NUMBER or not _NUMBER.fullmatch(text):
                return None
            number = float(text.replace(",", ""))
        else:
            number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if abs(number) < float("inf") else None
