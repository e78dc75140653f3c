"""Two models on the same examples, by hand and by how often the test is wrong."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.algos.evaluation.shared import make_record
from textenv.algos.evaluation.paired import compare, p_text
from textenv.algos.evaluation.results import Evaluation
from textenv.algos.evaluation.statistics import (
    bootstrap_interval,
    difference_interval,
    mcnemar_test,
    sign_flip_test,
)
from textenv.errors import ConfigError


def single(verdicts):
    return Evaluation.of([make_record(i, [verdict]) for i, verdict in enumerate(verdicts)])


def test_single_answers_by_mcnemar():
    first = single([1, 1, 1, 0, 0, 0, 0, 0, 0, 1])
    second = single([1, 1, 0, 1, 1, 1, 1, 1, 0, 1])
    found = compare(first, second)
    assert (found.first, found.second) == (0.4, 0.8) and found.difference == pytest.approx(0.4)
    assert (found.only_first, found.only_second, found.examples) == (1, 5, 10)
    assert found.p_value == mcnemar_test(1, 5) == 0.21875
    assert found.interval == difference_interval(1, 5, 10)
    low, high = found.interval
    assert found.describe() == (
        f"accuracy 0.400 and 0.800: difference +0.400 ({low:+.3f} to {high:+.3f}), p = 0.22 by "
        "McNemar's exact test on 10 examples; only the first is right on 1, only the second on 5"
    )
    assert json.loads(json.dumps(found.as_dict()))["interval"] == [low, high]
    back = compare(second, first)
    assert back.difference == -found.difference and back.p_value == found.p_value


def test_several_samples_by_flipping_signs():
    rng = np.random.default_rng(0)
    draws = [rng.random((30, 4)) < share for share in (0.3, 0.6)]
    both = [
        Evaluation.of([make_record(i, row.astype(int).tolist()) for i, row in enumerate(drawn)])
        for drawn in draws
    ]
    found = compare(*both)
    differences = draws[1].mean(1) - draws[0].mean(1)
    assert found.difference == pytest.approx(differences.mean())
    assert found.p_value == sign_flip_test(differences.tolist()) < 0.01
    assert found.interval == bootstrap_interval(differences.tolist())
    assert found.only_first is None and "only the first" not in found.describe()


def test_rewards_are_compared_if_nobody_knows_what_is_right():
    first, second = (
        Evaluation.of([make_record(i, [None], rewards=[r]) for i, r in enumerate(rewards)])
        for rewards in ([0.0, 1.0, None, 0.5], [0.5, 1.0, 9.0, 1.0])
    )
    found = compare(first, second)
    assert found.figure == "reward" and found.examples == 3
    assert (found.first, found.second) == (0.5, pytest.approx(2.5 / 3))
    assert found.p_value == sign_flip_test([0.5, 0.0, 0.5]) == 0.5


def test_what_cannot_be_compared():
    with pytest.raises(ConfigError, match="have 2 and 3, which are not the same"):
        compare(single([1, 0]), single([1, 0, 1]))
    for other in (
        replace(make_record(0, [1], prompt="another"), expected="no"),
        make_record(1, [1]),
    ):
        with pytest.raises(ConfigError, match="on the same examples"):
            compare(single([1]), Evaluation.of([other]))
    in_words = Evaluation.of([make_record(0, [1], prompt="another")])  # the same answer
    assert compare(single([1]), in_words).difference == 0
    first, second = (
        Evaluation.of([make_record(i, [None], rewards=[r]) for i, r in enumerate(rewards)])
        for rewards in ([1.0, None], [None, 1.0])
    )
    with pytest.raises(ConfigError, match="no example in common with a reward"):
        compare(first, second)


def test_equal_models_seldom_seem_to_differ():
    """The share of p-values below 0.05 is at most about 0.05, and models that differ are told."""
    rng = np.random.default_rng(1)

    def p_value(gain):
        hard = rng.random(100)
        first, second = (rng.random(100) < p for p in (hard, np.minimum(1, hard + gain)))
        return compare(single(first.astype(int)), single(second.astype(int))).p_value

    assert np.mean([p_value(0.0) < 0.05 for _ in range(400)]) < 0.07
    assert np.mean([p_value(0.3) < 0.05 for _ in range(50)]) > 0.8


def test_small_p_values_are_not_told_to_the_digit():
    assert [p_text(p) for p in (1.0, 0.04321, 1e-4, 1e-12)] == [
        *("= 1", "= 0.043", "= 0.0001", "< 0.0001")
    ]
