"""Means and variances of a stream of rows."""

import numpy as np
import pytest

from textenv.algos.control.running_stats import RunningStats


@pytest.mark.parametrize("sizes", [[5], [1, 1, 1], [2, 0, 30, 7]])
def test_running_statistics_are_those_of_all_rows(sizes):
    rng = np.random.default_rng(0)
    parts = [rng.normal(3, 5, size=(n, 2)) for n in sizes]
    stats = RunningStats(2)
    for part in parts:
        stats.update(part)
    rows = np.concatenate(parts)
    np.testing.assert_allclose(stats.mean, rows.mean(axis=0))
    np.testing.assert_allclose(stats.var, rows.var(axis=0), atol=1e-12)
