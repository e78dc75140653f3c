"""Reads what reward functions return, and gives them answers instead of whole completions."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from textenv.errors import RewardError
from textenv.rewards.calls import Rows

Answers = Sequence[str | None]
"""What was extracted from each completion; None from one that has no answer."""


class _NoAnswer:
    def __repr__(self) -> str:
        return "NO_ANSWER"


NO_ANSWER = _NoAnswer()
"""Outcome of a function that scores the answer, for a completion without one: 0, and wrong."""


def call_with_answers(
    function: Callable[[Rows], list[Any]], rows: Rows, answers: Answers
) -> list[Any]:
    """The outcome of each row, where a function is called with answers instead of completions.

    It is not called for completions without an answer, whose outcome is `NO_ANSWER`.

    Args:
        function: gives one outcome for each row.
        rows: the prompts, completions and examples.
        answers: one for each row.
    """
    outcomes: list[Any] = [NO_ANSWER] * len(answers)
    found = [(i, answer) for i, answer in enumerate(answers) if answer is not None]
    if found:
        prompts = [rows.prompts[i] for i, _ in found]
        examples = [rows.examples[i] for i, _ in found]
        for (i, _), outcome in zip(found, function(Rows(prompts, [a for _, a in found], examples))):
            outcomes[i] = outcome
    return outcomes


def components_of(
    name: str, result: Any, prompt: str, abstains: bool
) -> list[tuple[str, float | None]]:
    """The components by name; None for one that abstains, if that is allowed."""
    if type(result) is float and math.isfinite(result):  # the common case: the rest is slow
        return [(name, result)]
    if isinstance(result, Mapping):
        if not result or not all(isinstance(key, str) for key in result):
            raise RewardError(
                f"reward function {name!r} returned {dict(result)!r} for prompt {shorten(prompt)}; "
                "expected components by name, at least one"
            )
        return [
            (key, _finite(f"{name}[{key!r}]", value, prompt, abstains))
            for key, value in result.items()
        ]
    return [(name, _finite(name, result, prompt, abstains))]


def _finite(name: str, value: Any, prompt: str, abstains: bool) -> float | None:
    if value is None and abstains:
        return None
    # NumPy's scalars are registered as Real. Its booleans are not, nor are arrays of one element.
    if not isinstance(value, (numbers.Real, np.bool_)):
        raise RewardError(
            f"reward function {name} returned {value!r} ({type(value).__name__}) for prompt "
            f"{shorten(prompt)}; expected a finite number"
        )
    try:
        number, came = float(value), repr(value)
    except OverflowError:
        number, came = math.inf, "a number too large for a float"
    if not math.isfinite(number):
        raise RewardError(
            f"reward function {name} returned {came} for prompt {shorten(prompt)}; "
            "expected a finite number"
        )
    return number


def shorten(text: str) -> str:
    """A text as messages quote it: at most 60 characters."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
