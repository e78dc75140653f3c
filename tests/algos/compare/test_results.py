"""What runs come to, worked by hand."""

import pytest

from tests.algos.compare.shared import Fake, compare_with_scores
from textenv.algos.compare.arena import Arena


def test_summary_by_hand(fakes):
    fakes(Fake("a", 50), Fake("b", 50))
    arena = Arena("CartPole-v1", {}, 100, 50, 1)
    found = compare_with_scores(arena, ["a", "b"], [0, 1, 2], reach=8.5)
    # Evaluations in order: a 1 2 3, b 4 5 6, a 7 8 9, b 10 11 12, a 13 14 15, b 16 17 18.
    summary = found.summary()
    assert summary["a"]["final_iqm"] == 9 and summary["b"]["final_iqm"] == 12
    better = summary["b"]["probability_of_improvement"]
    assert better["over"] == "a" and better["value"] == pytest.approx(6 / 9)
    assert "probability_of_improvement" not in summary["a"]
    # a reaches 8.5 at 9 (100 steps) and 13 (0 steps), b at 10 and 16, both at once.
    assert summary["a"]["reach"]["reached"] == 2 and summary["a"]["reach"]["median_steps"] == 100
    assert summary["b"]["reach"]["median_steps"] == 0
    assert summary["a"]["reach"]["by_seed"]["0"] is None
    for one in summary.values():
        assert sum(one["shares"].values()) == pytest.approx(1)


def test_a_threshold_that_most_runs_miss_has_no_median(fakes):
    fakes(Fake("a", 50))
    arena = Arena("CartPole-v1", {}, 100, 50, 1)
    reach = compare_with_scores(arena, ["a"], [0, 1, 2], reach=8.5).summary()["a"]["reach"]
    assert reach["reached"] == 1 and reach["median_seconds"] is None
