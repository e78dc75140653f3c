"""The reward functions that come with the package."""

from __future__ import annotations

import math
from typing import Any

from textenv.rewards import reward


@reward(requires=("answer",), verifies=True)
def exact_match(prompt: str, completion: str, example: dict[str, Any]) -> float:
    """1 where the completion is the example's ``answer``, spaces around both aside."""
    return float(completion.strip() == str(example["answer"]).strip())


@reward(requires=("answer",), verifies=True)
def contains(prompt: str, completion: str, example: dict[str, Any]) -> float:
    """1 where the example's ``answer`` occurs in the completion."""
    return float(str(example["answer"]).strip() in completion)


@reward(requires=("answer",), verifies=True)
def numeric_match(prompt: str, completion: str, example: dict[str, Any]) -> float:
    """1 where the completion is a number equal to ``answer``, to a relative 1e-6.

    The example's ``tolerance``, where it has one, is an absolute tolerance instead.
    """
    try:
        value, answer = float(completion.strip()), float(example["answer"])
    except ValueError:
        return 0.0
    if "tolerance" in example:
        return float(abs(value - answer) <= float(example["tolerance"]))
    return float(math.isclose(value, answer, rel_tol=1e-6, abs_tol=1e-12))


@reward
def length(prompt: str, completion: str, example: dict[str, Any]) -> float:
    """Number of characters in the completion; weight it below zero to ask for short answers."""
    return float(len(completion))
