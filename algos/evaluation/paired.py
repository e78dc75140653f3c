"""Compares two models that answered the same examples: the difference, its interval, a test."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from textenv.algos.evaluation.results import Evaluation, Record
from textenv.algos.evaluation.statistics import (
    Interval,
    bootstrap_interval,
    difference_interval,
    mcnemar_test,
    sign_flip_test,
)
from textenv.errors import ConfigError


@dataclass(frozen=True)
class Comparison:
    """How a second model does beside a first one, on the same examples."""

    figure: str
    """What is compared: ``"accuracy"``, or ``"reward"`` if the task cannot tell what is right."""
    first: float
    second: float
    difference: float
    """The second one's figure minus the first one's."""
    interval: Interval
    """The interval of 95% of the difference."""
    p_value: float
    """How often models that are equally good would differ by so much, in either direction."""
    test: str
    """The test that gave the p-value, in words."""
    examples: int
    only_first: int | None = None
    """With single answers: how many examples only the first model gets right."""
    only_second: int | None = None
    """With single answers: how many examples only the second model gets right."""

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values, for a file."""
        return asdict(self) | {"interval": list(self.interval)}

    def describe(self) -> str:
        """The comparison in one line."""
        low, high = self.interval
        counts = (
            f"; only the first is right on {self.only_first}, only the second on {self.only_second}"
            if self.only_first is not None
            else ""
        )
        return (
            f"{self.figure} {self.first:.3f} and {self.second:.3f}: difference "
            f"{self.difference:+.3f} ({low:+.3f} to {high:+.3f}), p {p_text(self.p_value)} by "
            f"{self.test} on {self.examples} examples{counts}"
        )


def p_text(p_value: float) -> str:
    """What a p-value is, with two digits, or that it is below 0.0001."""
    return f"= {p_value:.2g}" if p_value >= 1e-4 else "< 0.0001"


def compare(first: Evaluation, second: Evaluation) -> Comparison:
    """Compare two evaluations of the same examples, example by example.

    Single answers are compared by McNemar's exact test. With several samples of an example, or
    rewards in place of right answers, the test flips the signs of the examples' differences.

    Raises:
        ConfigError: if they are of other examples, or have no example in common that was scored.
    """
    pairs = list(zip(first.records, second.records))
    if first.examples != second.examples or not all(_same_example(a, b) for a, b in pairs):
        raise ConfigError(
            f"two models are compared on the same examples; these evaluations have "
            f"{first.examples} and {second.examples}, which are not the same"
        )
    figure = "reward" if first.accuracy is None or second.accuracy is None else "accuracy"
    values = [
        (one, other)
        for a, b in pairs
        if (one := _value(a, figure)) is not None and (other := _value(b, figure)) is not None
    ]
    if not values:
        raise ConfigError(f"the two evaluations have no example in common with a {figure}")
    ours, theirs = np.array(values).T
    difference = float((theirs - ours).mean())
    known = figure, float(ours.mean()), float(theirs.mean()), difference
    if figure == "accuracy" and first.samples == second.samples == 1:
        only_first, only_second = int((ours > theirs).sum()), int((theirs > ours).sum())
        return Comparison(
            *known,
            difference_interval(only_first, only_second, len(values)),
            mcnemar_test(only_first, only_second),
            "McNemar's exact test",
            len(values),
            only_first,
            only_second,
        )
    differences = (theirs - ours).tolist()
    return Comparison(
        *known,
        bootstrap_interval(differences),
        sign_flip_test(differences),
        "flipping the signs of the differences",
        len(values),
    )


def _value(record: Record, figure: str) -> float | None:
    return record.accuracy if figure == "accuracy" else record.reward


def _same_example(one: Record, other: Record) -> bool:
    """Whether two records are of one example; a task may ask two models in different words."""
    same_answer = one.expected is not None and one.expected == other.expected
    return one.example_id == other.example_id and (one.prompt == other.prompt or same_answer)
