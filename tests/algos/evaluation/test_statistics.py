"""Intervals and tests, by hand, by brute force, and by how often they hold the truth."""

import itertools
import math

import numpy as np
import pytest

from textenv.algos.evaluation import statistics
from textenv.algos.evaluation.statistics import (
    bootstrap_interval,
    difference_interval,
    mcnemar_test,
    pass_at_k,
    share_interval,
    sign_flip_test,
    wilson_interval,
)
from textenv.errors import ConfigError


@pytest.mark.parametrize(
    ("right", "of", "low", "high"),
    [  # R: binom::binom.confint(x, n, methods = "wilson")
        (0, 10, 0.0, 0.2775328),
        (5, 10, 0.2365931, 0.7634069),
        (10, 10, 0.7224672, 1.0),
        (1, 100, 0.0017674, 0.0544862),
    ],
)
def test_wilsons_interval_has_the_published_ends(right, of, low, high):
    assert wilson_interval(right / of, of) == pytest.approx((low, high), abs=1e-6)
    answers = [1.0] * right + [0.0] * (of - right)
    assert share_interval(answers) == pytest.approx((low, high), abs=1e-6)


def test_wilsons_ends_are_where_the_normal_test_just_refuses():
    """They solve |p - share| = z sqrt(p (1 - p) / n), which is how Wilson defines them."""
    for share, count in [(0.3, 40), (0.9, 7), (0.02, 500)]:
        for end in wilson_interval(share, count):
            assert abs(end - share) == pytest.approx(
                1.959964 * math.sqrt(end * (1 - end) / count), rel=1e-6
            )


def test_samples_count_as_answers_of_their_own_if_examples_do_not_differ():
    rng = np.random.default_rng(0)
    easy_and_hard = [1.0] * 20 + [0.0] * 20  # 8 samples of each tell no more than one
    assert share_interval(easy_and_hard, samples=8) == wilson_interval(0.5, 40)
    alike = rng.binomial(8, 0.5, 4000) / 8
    mean = float(alike.mean())
    assert share_interval(alike, samples=8) == pytest.approx(
        wilson_interval(mean, 8 * 4000), abs=1e-3
    )
    assert share_interval([0.5] * 10, samples=4) == wilson_interval(
        0.5, 10
    )  # by chance: the safe side


@pytest.mark.parametrize(("examples", "samples"), [(50, 1), (50, 8), (200, 4)])
def test_the_interval_of_a_share_holds_the_truth_about_as_often_as_it_says(examples, samples):
    """Examples of any difficulty: Beta(0.6, 0.4), whose mean is 0.6."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(1000):
        found = rng.binomial(samples, rng.beta(0.6, 0.4, examples)) / samples
        low, high = share_interval(found, samples)
        held += low <= 0.6 <= high
    assert 0.93 <= held / 1000 <= 0.975


def test_the_bootstrap_is_near_the_normal_interval_of_many_values_and_always_the_same():
    values = np.random.default_rng(2).normal(3, 2, 400)
    half = 1.96 * values.std() / 20
    found = bootstrap_interval(values)
    assert found == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)
    assert found == bootstrap_interval(values)
    assert bootstrap_interval([2.5]) == (2.5, 2.5)


def test_a_bootstrap_in_parts_draws_as_many(monkeypatch):
    monkeypatch.setattr(statistics, "_AT_ONCE", 30)
    assert bootstrap_interval([0.0, 1.0, 2.0]) == pytest.approx((0.0, 2.0), abs=0.35)


def test_pass_at_k_is_the_share_of_draws_that_hold_a_right_answer():
    """Of all ways to draw k of n answers without putting them back."""
    for samples, correct in [(1, 0), (1, 1), (5, 0), (5, 2), (6, 5), (6, 6)]:
        answers = [1] * correct + [0] * (samples - correct)
        for k in range(1, samples + 1):
            draws = list(itertools.combinations(answers, k))
            expected = sum(any(draw) for draw in draws) / len(draws)
            assert pass_at_k(samples, correct, k) == pytest.approx(expected)


def test_pass_at_k_is_unbiased():
    """Its mean over runs is 1 - (1 - p)^k; 1 - (1 - c/n)^k, which is often used, is too low."""
    rng = np.random.default_rng(3)
    runs = rng.binomial(10, 0.1, 20_000)
    truth = 1 - 0.9**5
    assert np.mean([pass_at_k(10, int(c), 5) for c in runs]) == pytest.approx(truth, abs=0.01)
    assert np.mean(1 - (1 - runs / 10) ** 5) < truth - 0.02


@pytest.mark.parametrize("k", [0, 5, -1])
def test_pass_at_k_needs_so_many_samples(k):
    with pytest.raises(ConfigError, match=rf"pass@{k} needs k from 1 to the 4 sample\(s\)"):
        pass_at_k(4, 1, k)


def test_mcnemar_counts_the_tails_of_a_fair_coin():
    """By all ways that the examples on which the models differ could have gone."""
    for first, second in [(0, 0), (0, 1), (1, 5), (4, 4), (0, 8), (7, 2)]:
        ways = list(itertools.product((0, 1), repeat=first + second))
        away = abs(first - second)
        as_far = [way for way in ways if abs(len(way) - 2 * sum(way)) >= away]
        assert mcnemar_test(first, second) == pytest.approx(len(as_far) / len(ways))
        assert mcnemar_test(second, first) == mcnemar_test(first, second)
    assert 0 < mcnemar_test(2000, 2500) < 1e-10


def test_the_interval_of_a_difference_by_hand():
    # Agresti and Min: counts 10.5 and 20.5 of 102; 10/102 -+ 1.96 sqrt(31 - 100/102) / 102
    half = 1.959964 * math.sqrt(31 - 100 / 102) / 102
    expected = 10 / 102 - half, 10 / 102 + half
    assert difference_interval(10, 20, 100) == pytest.approx(expected, abs=1e-6)
    low, high = difference_interval(0, 0, 50)
    assert low == -high and 0.03 < high < 0.06


def test_the_interval_of_a_difference_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(4)
    held = 0
    for _ in range(2000):
        only_first, only_second, _ = rng.multinomial(100, (0.05, 0.2, 0.75))
        low, high = difference_interval(int(only_first), int(only_second), 100)
        held += low <= 0.15 <= high
    assert 0.93 <= held / 2000 <= 0.98


def test_flipping_signs_tries_all_of_few():
    assert sign_flip_test([]) == sign_flip_test([0.0, 0.0]) == 1.0
    assert sign_flip_test([1.0, 1.0, 1.0]) == 2 / 8
    assert sign_flip_test([0.1, 0.2, 0.3, 0.0]) == 2 / 8
    for values in [(0.5, -0.25, 1.0), (0.1, 0.1, -0.1, 0.2, 0.3)]:
        signs = itertools.product((-1, 1), repeat=len(values))
        sums = [abs(np.dot(sign, values)) for sign in signs]
        expected = np.mean([s >= abs(sum(values)) - 1e-9 for s in sums])
        assert sign_flip_test(values) == pytest.approx(expected)


def test_flipping_signs_of_single_answers_is_mcnemars_test():
    """Differences of 1 and -1: the same coin, drawn at random in place of counted."""
    exact = mcnemar_test(5, 20)
    assert sign_flip_test([1.0] * 20 + [-1.0] * 5) == pytest.approx(exact, abs=0.004)
    assert sign_flip_test([1.0] * 40) == 1 / (1 + statistics.REPETITIONS)
