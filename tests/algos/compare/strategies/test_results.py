"""What runs of strategies come to, worked by hand."""

import numpy as np
import pytest

from tests.algos.compare.strategies.shared import BAD, FAST, PLAIN, comparison_of, run_of
from textenv.algos.compare.strategies.results import Try, crossing
from textenv.algos.compare.strategies.runs import StrategyArena

ARENA = StrategyArena(
    {}, tokens=200, eval_every=1, eval_examples=4, num_prompts=2, num_generations=4
)


def test_crossings_by_hand():
    x = np.array([0.0, 10.0, 20.0, 40.0])
    y = np.array([[0.0, 0.5, 0.2, 1.0], [0.0, 0.0, 0.0, 0.4], [0.8, 0.1, 0.1, 0.9], [0, 0, 0, 0]])
    assert crossing(x, y, np.array([0.25, 0.25, 0.25, 0.25])).tolist() == [5, 32.5, 0, np.inf]
    assert crossing(x, y, np.array([0.6, 0.4, 0.9, 0.0])).tolist() == [30, 40, 40, 0]
    assert crossing(x, y[0], 0.5) == 10  # at a point, and not where it comes back


def test_what_runs_come_to_by_hand():
    found = comparison_of(*PLAIN, *FAST, *BAD)
    summary = found.summary()
    # .5 to .9: 95% of the gain is .88. Plain's mean: at 100 .6, at 220 .9, and at 200 between.
    assert found.threshold() == pytest.approx(0.88)
    at_200 = (0.9 + 0.5 + 0.4 * 100 / 120) / 2
    tokens = 200 + 20 * (0.88 - at_200) / (0.9 - at_200)
    plain, quick, slow = (summary[name] for name in ("plain", "fast", "bad"))
    assert plain["reach"]["tokens"] == pytest.approx(tokens)
    # By seconds: .6 at 10 and .9 at 20.
    assert plain["reach"]["seconds"] == pytest.approx(10 + 10 * 0.28 / 0.3)
    assert plain["reach"]["by_seed"]["0"]["tokens"] == pytest.approx(190)
    assert plain["reach"]["by_seed"]["1"]["tokens"] == pytest.approx(100 + 120 * 0.38 / 0.4)
    assert plain["reach"]["tokens_ratio"] == 1 and "difference" not in plain

    assert quick["reach"]["tokens"] == pytest.approx(50)  # the mean is .88 there
    assert quick["reach"]["tokens_ratio"] == pytest.approx(50 / tokens)
    assert quick["reach"]["by_seed"]["0"]["tokens"] == pytest.approx(50 + 160 * 0.02 / 0.04)
    assert quick["reach"]["by_seed"]["1"]["tokens"] == pytest.approx(50 * 0.38 / 0.4)
    assert quick["reach"]["seconds"] == pytest.approx(40) and quick["reach"]["reached"] == 2
    low, high = quick["reach"]["tokens_ratio_interval"]
    assert low < 50 / tokens < high
    assert quick["difference"]["value"] == 0 and not quick["difference"]["worse"]

    assert slow["reach"]["tokens"] is None and slow["reach"]["tokens_ratio"] is None
    assert slow["reach"]["reached"] == 0 and slow["reach"]["tokens_ratio_interval"] == [None] * 2
    assert slow["accuracy"] == pytest.approx(0.7) and slow["greedy"] == pytest.approx(0.71)
    assert slow["interval"] == pytest.approx((0.6, 0.8))
    assert slow["difference"]["value"] == pytest.approx(-0.2) and slow["difference"]["worse"]
    assert slow["totals"]["computed_per_trajectory"] == 3


def test_runs_that_are_all_alike_have_no_spread():
    rows = (0, 0, 0.0), (100, 10, 0.8), (200, 20, 1.0)
    half = (0, 0, 0.0), (50, 10, 0.8), (100, 20, 1.0)
    runs = [run_of("plain", s, *rows) for s in range(3)] + [run_of("a", s, *half) for s in range(3)]
    reach = comparison_of(*runs).summary()["a"]["reach"]
    assert reach["tokens_ratio"] == pytest.approx(0.5)
    assert reach["tokens_ratio_interval"] == pytest.approx([0.5, 0.5])


def test_without_a_gain_there_is_nothing_to_reach():
    found = comparison_of(run_of("plain", 0, (0, 0, 0.5), (100, 1, 0.4)))
    assert found.threshold() is None


def test_the_learning_rate_is_the_best_of_the_grid_once_all_are_tried():
    tries = [Try("a", 3e-4, 0.6, 10, 1.0), Try("a", 1e-3, 0.8, 10, 1.0), Try("b", 3e-4, 0.6, 9, 1)]
    found = comparison_of(rates=(3e-4, 1e-3), tries=tries)
    assert found.learning_rate("a") == 1e-3 and found.learning_rate("b") is None
    found.tries.append(Try("b", 1e-3, 0.6, 9, 1.0))
    assert found.learning_rate("b") == 3e-4  # the first of equals
    assert comparison_of(rates=(5e-4,)).learning_rate("a") == 5e-4
