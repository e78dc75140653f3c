"""Statistics of few runs, against numbers by hand, enumeration, and scipy where it is there."""

import itertools

import numpy as np
import pytest

from textenv.algos.compare.statistics import (
    bootstrap_interval,
    interquartile_mean,
    learning_curve,
    probability_of_improvement,
)


def column(*scores):
    return np.array(scores, float)[:, None]


def test_interquartile_mean_by_hand():
    assert interquartile_mean(column(1, 2, 3)) == 2  # a quarter of 3 runs is none
    assert interquartile_mean(column(9, 0, 5, 1000, 4)) == 6  # (4 + 5 + 9) / 3
    assert interquartile_mean(column(*range(8))) == 3.5  # 2, 3, 4, 5
    # All tasks together: of 1 2 3 10 20 30 100 200, the middle 4 are 3 10 20 30.
    scores = np.array([[1, 100], [20, 2], [3, 200], [30, 10]], float)
    assert interquartile_mean(scores) == 15.75


def test_interquartile_mean_of_many_samples_at_once():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(4, 3, 7, 2))
    each = [[interquartile_mean(scores[i, j]) for j in range(3)] for i in range(4)]
    np.testing.assert_allclose(interquartile_mean(scores), each, rtol=1e-12)


def test_scipy_agrees():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(1)
    for runs, tasks in ((1, 1), (3, 1), (5, 1), (10, 4), (7, 3)):
        scores = rng.normal(size=(runs, tasks))
        expected = stats.trim_mean(scores, proportiontocut=0.25, axis=None)
        assert interquartile_mean(scores) == pytest.approx(expected, rel=1e-12)
        other = np.round(rng.normal(size=(runs + 1, tasks)), 1)
        scores = np.round(scores, 1)  # with ties
        u = [
            stats.mannwhitneyu(scores[:, m], other[:, m], alternative="greater").statistic
            for m in range(tasks)
        ]
        expected = np.mean(u) / (runs * (runs + 1))
        assert probability_of_improvement(scores, other) == pytest.approx(expected)


def test_probability_of_improvement_by_hand():
    assert probability_of_improvement(column(2, 3), column(0, 1)) == 1
    assert probability_of_improvement(column(0, 1), column(2, 3)) == 0
    assert probability_of_improvement(column(5, 5), column(5, 5, 5)) == 0.5
    # Pairs: 1=1, 1<2, 3>1, 3>2.
    assert probability_of_improvement(column(1, 3), column(1, 2)) == 0.625
    # Two tasks: 1 on the first, 0.5 on the second.
    x, y = np.array([[2.0, 7.0]]), np.array([[1.0, 7.0]])
    assert probability_of_improvement(x, y) == 0.75


def test_interval_is_that_of_every_way_to_draw():
    scores = column(0.0, 1.0, 10.0)
    means = [np.mean(drawn) for drawn in itertools.product(scores[:, 0], repeat=3)]
    low, high = bootstrap_interval(lambda x: x.mean(axis=(-2, -1)), scores, confidence=0.8)
    assert low == pytest.approx(np.quantile(means, 0.1, method="inverted_cdf"))
    assert high == pytest.approx(np.quantile(means, 0.9, method="inverted_cdf"))


def test_interval_of_a_mean_is_the_normal_one_for_many_runs():
    scores = np.random.default_rng(2).normal(size=(400, 1))
    low, high = bootstrap_interval(lambda x: x.mean(axis=(-2, -1)), scores, repetitions=20_000)
    half = 1.96 * scores.std() / 20
    assert (low, high) == pytest.approx((scores.mean() - half, scores.mean() + half), abs=0.005)


def test_tasks_are_strata():
    # Each task draws from its own runs, so tasks without spread leave none.
    scores = np.array([[0.0, 10.0]] * 4)
    assert bootstrap_interval(lambda x: x.mean(axis=(-2, -1)), scores) == (5, 5)


def test_agents_are_drawn_apart():
    x, y = column(0, 1), column(0, 1)
    # P of a draw of X over one of Y, by all 4 x 4 ways.
    ways = list(itertools.product([0.0, 1.0], repeat=2))
    found = [float(probability_of_improvement(column(*a), column(*b))) for a in ways for b in ways]
    low, high = bootstrap_interval(probability_of_improvement, x, y, confidence=0.8)
    assert low == np.quantile(found, 0.1, method="inverted_cdf")
    assert high == np.quantile(found, 0.9, method="inverted_cdf")


def test_a_seed_gives_the_same_interval():
    scores = column(*np.random.default_rng(3).normal(size=5))
    first = bootstrap_interval(interquartile_mean, scores, seed=1)
    assert first == bootstrap_interval(interquartile_mean, scores, seed=1)
    assert first.low < interquartile_mean(scores) < first.high


def test_learning_curve_is_straight_between_measurements():
    runs = [
        (np.array([0, 10]), np.array([0.0, 100.0])),
        (np.array([0, 5, 10]), np.array([0.0, 0.0, 100.0])),
    ]
    curve = learning_curve(runs, np.array([0, 5, 10]))
    np.testing.assert_allclose(curve.middle, [0, 25, 100])  # of 0; of 50 and 0; of 100
    np.testing.assert_allclose(curve.low, [0, 0, 100])
    np.testing.assert_allclose(curve.high, [0, 50, 100])


def test_the_curve_of_one_run_is_that_run():
    curve = learning_curve([(np.array([0, 4]), np.array([1.0, 3.0]))], np.array([0, 1, 2]))
    for band in (curve.middle, curve.low, curve.high):
        np.testing.assert_allclose(band, [1, 1.5, 2])
