"""Medians and ratios, by hand."""

from tests.algos.bench.shared import results_of, run_of, two_sides
from textenv.algos.bench.plan import OURS


def test_medians_and_ratios():
    results = results_of(
        [two_sides()],
        {
            (0, OURS): [run_of(1.0, 100, inner={"a": x}) for x in (1, 5, 3)],
            (0, "trl"): [run_of(3.0, 250), run_of(2.0, 200)],
        },
    )
    assert results.median(0, OURS, "inner", "a") == 3
    assert results.median(0, OURS, "inner", "b") is None
    assert results.median(0, "trl", "seconds") == 2.5
    assert results.ratios(0, "trl", OURS, "seconds") == {1: 3.0, 2: 2.0}  # no third round
    assert results.runs == 5
