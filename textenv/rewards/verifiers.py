"""The reward functions that come with the package, such as ``exact_match`` and ``math_equal``.

A function reads its settings from the example. To set one for all examples, use
``functools.partial(regex, pattern=...)``.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import re
from collections.abc import Sequence
from typing import Any

from textenv.errors import MissingDependencyError
from textenv.rewards.answers import (
    answer_of,
    as_number,
    as_text,
    texts_of,
    why_missing,
    why_no_number,
)
from textenv.rewards.extract import InTag
from textenv.rewards.limits import is_bounded
from textenv.rewards.quantities import Quantity, as_quantity, same_unit, without_stop
from textenv.rewards.registry import reward


@reward(requires=("answer",), verifies=True, check=why_missing, answer=True)
def exact_match(prompt: str, completion: str, example: dict[str, Any]) -> float:
    """1 if the completion equals the example's ``answer``, else 0.

    Spaces around both and a full stop at the end do not count. Two numbers are equal if their
    digits are, without thousands separators, and if their units do not differ (see
    `textenv.rewards.quantities`): ``1,000``, ``1000`` and ``1000 km`` are equal, ``4`` and ``4.0``
    are not. An answer 42.0 is also met by 42, because pandas writes 42 so beside a missing value.
    """
    texts = texts_of(answer_of(example))
    if completion.strip() in texts:
        return 1.0
    said = without_stop(completion)
    if said in map(without_stop, texts):
        return float(said != "")
    number = as_quantity(said)
    if number is None:
        return 0.0
    wanted = filter(None, map(as_quantity, texts))
    return float(any(w.digits == number.digits and same_unit(w, number) for w in wanted))


@reward(requires=("answer",), verifies=True, check=why_missing, answer=True)
def contains(prompt: str, completion: str, example: dict[str, Any]) -> float:
    """1 if the completion contains the example's ``answer``, or equals it; else 0.

    An answer 42.0 is also met by the number 42, because pandas writes 42 so beside a missing
    value.
    """
    *whole, text = texts_of(answer_of(example))
    if text in completion or exact_match(prompt, completion, example):
        return 1.0
    return float(any(re.search(rf"(?<![\d.]){re.escape(n)}(?!\d|\.\d)", completion) for n in whole))


@reward(requires=("answer",), verifies=True, check=why_no_number, answer=True)
def numeric_match(
    prompt: str, completion: str, example: dict[str, Any], tolerance: float | None = None
) -> float:
    """1 if the completion is a number equal to ``answer`` within a relative 1e-6, else 0.

    Thousands may be separated by commas, and there may be a unit, which must be the answer's if
    that has one too (see `textenv.rewards.quantities`), and a full stop at the end. If the example
    has a ``tolerance``, it is used instead, as an absolute tolerance.
    """
    wanted, number = _quantity(answer_of(example)), as_quantity(completion)
    if number is None or wanted is None or not same_unit(wanted, number):
        return 0.0
    answer, value = wanted.value, number.value
    own = as_number(example.get("tolerance"))  # None also for the NaN of an empty cell
    tolerance = tolerance if own is None else own
    if tolerance is not None:
        return float(abs(value - answer) <= float(tolerance))
    return float(math.isclose(value, answer, rel_tol=1e-6, abs_tol=1e-12))


def _quantity(answer: Any) -> Quantity | None:
    if isinstance(answer, str):
        return as_quantity(answer)
    number = as_number(answer)
    return None if number is None else Quantity(str(number), number, "")


@reward(requires=("answer",), verifies=True, check=why_missing, answer=True)
def math_equal(prompt: str, completion: str, example: dict[str, Any]) -> float:
    r"""1 if the completion's last formula equals ``answer``, as 1/2 and ``\frac{1}{2}`` do; else 0.

    math-verify reads and compares the formulas. It looks in ``\boxed{}`` and between dollar signs
    first. If there is an ``<answer>`` tag, it reads nothing but what stands in the last one. A
    completion with a number that is too large to compute with scores 0. `Reward` calls this
    function in a process with a time limit, because a formula can take very long.

    Raises:
        ValueError: if the answer is not a formula.
    """
    math_verify = _math_verify()
    # At its first use it warns that its own timeouts are off. They are off because they use a
    # signal, which works only in the main thread and which other code may use.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    answer = answer_of(example)
    gold = math_verify.parse(_marked(as_text(answer)), parsing_timeout=None)
    if not gold:
        raise ValueError(f"answer {answer!r} is not a formula that math-verify reads")
    tagged = _IN_ANSWER(completion)
    completion = completion if tagged is None else tagged
    if not is_bounded(completion):
        return 0.0
    found = math_verify.parse(_marked(completion), parsing_timeout=None)
    return float(math_verify.verify(gold, found, timeout_seconds=None))


_IN_ANSWER = InTag("answer")


def _math_verify() -> Any:
    """The library math-verify, which takes a second to import."""
    _require_math_verify()
    return importlib.import_module("math_verify")


def _require_math_verify() -> None:
    if importlib.util.find_spec("math_verify") is None:
        raise MissingDependencyError("math-verify", "rewards", "reward 'math_equal'")


math_equal.limited = True  # type: ignore[attr-defined]
math_equal.require = _require_math_verify  # type: ignore[attr-defined]
math_equal.prepare = lambda *_: _math_verify()  # type: ignore[attr-defined]


def _marked(text: str) -> str:
    """A text that is one formula, in the dollar signs that math-verify needs; prose unchanged."""
    prose = re.search(r"(?<!\\)\b[^\W\d_]{2,}\b", text) and " " in text.strip()
    return text if prose or "$" in text or "\\boxed" in text else f"${text.strip()}$"


@reward(requires=("pattern",), answer=True)
def regex(
    prompt: str, completion: str, example: dict[str, Any], pattern: str | None = None
) -> float:
    r"""1 if the example's ``pattern`` occurs in the completion, else 0.

    Anchor the pattern with ``\A`` and ``\Z`` to match the whole completion. A pattern with nested
    repeats can take extremely long; ``reward_timeout`` with ``reward_process=True`` cuts it off.
    """
    return float(re.search(str(example.get("pattern", pattern)), completion) is not None)


@reward(requires=("schema",), answer=True)
def json_schema(
    prompt: str, completion: str, example: dict[str, Any], schema: dict[str, Any] | None = None
) -> float:
    """1 if the completion is nothing but JSON that the example's ``schema`` allows, else 0."""
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
        # The registry is empty, so that a schema's reference to a URL is not fetched.
        return float(kind(schema, registry=referencing.Registry()).is_valid(value))
    except (ValueError, RecursionError):  # also for too many digits, or if nested too deeply
        return 0.0


def _not_json(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


@reward
def length(prompt: str, completion: str, example: dict[str, Any]) -> float:
    """Number of characters in the completion; give it a negative weight for short answers."""
    return float(len(completion))


@reward
def format_tags(
    prompt: str,
    completion: str,
    example: dict[str, Any],
    tags: Sequence[str] = ("think", "answer"),
) -> float:
    """1 for ``<think>...</think> <answer>...</answer>`` and nothing around it, else 0.

    Each tag must occur exactly once. If the example has ``tags``, they are the names of the tags.
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
