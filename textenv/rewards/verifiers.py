"""The reward functions that come with the package.

What one needs to know it takes from the example, or from every example alike where it is set by
``functools.partial(regex, pattern=...)``.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Sequence
from typing import Any

from textenv.errors import MissingDependencyError
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
def numeric_match(
    prompt: str, completion: str, example: dict[str, Any], tolerance: float | None = None
) -> float:
    """1 where the completion is a number equal to ``answer``, to a relative 1e-6.

    The example's ``tolerance``, where it has one, is an absolute tolerance instead.
    """
    try:
        value, answer = float(completion.strip()), float(example["answer"])
    except ValueError:
        return 0.0
    tolerance = example.get("tolerance", tolerance)
    if tolerance is not None:
        return float(abs(value - answer) <= float(tolerance))
    return float(math.isclose(value, answer, rel_tol=1e-6, abs_tol=1e-12))


@reward(requires=("answer",), verifies=True)
def math_equal(prompt: str, completion: str, example: dict[str, Any]) -> float:
    r"""1 where the completion's last formula equals ``answer``: 1/2, 0.5 and ``\frac{1}{2}``.

    Read and compared by math-verify, which looks in ``\boxed{}`` and between dollars first. It
    can take very long on a text made for that: ``reward_timeout`` with ``reward_process=True``
    cuts it off.

    Raises:
        ValueError: where the answer is no formula.
    """
    try:
        import math_verify
    except ModuleNotFoundError as error:
        raise MissingDependencyError("math-verify", "rewards", "reward 'math_equal'") from error
    # It warns at its first use that its own timeouts are off. They work by a signal, which only a
    # main thread gets and which other code may use.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    gold = math_verify.parse(_marked(str(example["answer"])), parsing_timeout=None)
    if not gold:
        raise ValueError(f"answer {example['answer']!r} is not a formula that math-verify reads")
    found = math_verify.parse(_marked(completion), parsing_timeout=None)
    return float(math_verify.verify(gold, found, timeout_seconds=None))


def _marked(text: str) -> str:
    """A text that is one formula, in the dollars that math-verify looks for; prose as it is."""
    prose = re.search(r"(?<!\\)\b[^\W\d_]{2,}\b", text) and " " in text.strip()
    return text if prose or "$" in text or "\\boxed" in text else f"${text.strip()}$"


@reward(requires=("pattern",))
def regex(
    prompt: str, completion: str, example: dict[str, Any], pattern: str | None = None
) -> float:
    r"""1 where the example's ``pattern`` is found; anchor it with ``\A`` and ``\Z``.

    A pattern with nested repeats can take for ever: ``reward_timeout`` with
    ``reward_process=True`` cuts it off.
    """
    return float(re.search(str(example.get("pattern", pattern)), completion) is not None)


@reward(requires=("schema",))
def json_schema(
    prompt: str, completion: str, example: dict[str, Any], schema: dict[str, Any] | None = None
) -> float:
    """1 where the completion is JSON, and nothing else, that the example's ``schema`` allows."""
    try:
        import jsonschema
        import referencing
    except ModuleNotFoundError as error:
        raise MissingDependencyError("jsonschema", "rewards", "reward 'json_schema'") from error
    schema = example.get("schema", schema)
    kind = jsonschema.validators.validator_for(schema)
    kind.check_schema(schema)
    try:
        value = json.loads(completion, parse_constant=_not_json)
    except (ValueError, RecursionError):  # also too many digits, too deep a nesting
        return 0.0
    # The registry is empty, so that a reference to a page on the network fetches nothing.
    return float(kind(schema, registry=referencing.Registry()).is_valid(value))


def _not_json(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


@reward
def length(prompt: str, completion: str, example: dict[str, Any]) -> float:
    """Number of characters in the completion; weight it below zero to ask for short answers."""
    return float(len(completion))


@reward
def format_tags(
    prompt: str,
    completion: str,
    example: dict[str, Any],
    tags: Sequence[str] = ("think", "answer"),
) -> float:
    """1 for ``<think>...</think> <answer>...</answer>``, each tag once, and nothing around them.

    The example's ``tags`` are the names, where it has them.
    """
    rest = completion.strip()
    for tag in example.get("tags", tags):
        opening, closing = f"<{tag}>", f"</{tag}>"
        if completion.count(opening) != 1 or completion.count(closing) != 1:
            return 0.0
        before, _, rest = rest.partition(closing)
        if not before.startswith(opening):
            return 0.0
        rest = rest.strip()
    return float(not rest)
