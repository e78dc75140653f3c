"""PODS against a brute force over all subsets, ties included."""

from __future__ import annotations

from itertools import combinations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from textenv.algos import GRPOConfig, Trajectory, create_strategy
from textenv.algos.strategies.selection.pods import MaximumVariance, most_varied
from textenv.errors import ConfigError

values = st.one_of(
    st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=9),
    st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0]), min_size=2, max_size=9),
    st.lists(st.floats(-100, 100), min_size=2, max_size=9),
)


@given(values, st.integers(2, 9))
@settings(max_examples=300, deadline=None)
def test_against_all_subsets(rewards, count):
    count = min(count, len(rewards))
    chosen = most_varied(rewards, count)
    assert chosen == sorted(set(chosen)) and len(chosen) == count
    best = max(np.var(subset) for subset in combinations(rewards, count))
    scale = max(1.0, np.ptp(rewards) ** 2)
    assert np.var([rewards[i] for i in chosen]) == pytest.approx(best, abs=1e-12 * scale)


@pytest.mark.parametrize(
    ("rewards", "count", "expected"),
    [
        ([0, 1, 0, 0, 1, 0], 4, [0, 0, 1, 1]),
        ([0, 0, 0, 0, 0, 1], 4, [0, 0, 0, 1]),  # one right answer is never lost
        ([1, 1, 1, 1, 1, 0], 2, [0, 1]),
        ([0.0, 0.4, 0.5, 0.6, 1.0], 3, [0.0, 0.6, 1.0]),  # or 0, .4, 1, its mirror image
        ([10, 9, 1, 0, 5], 4, [0, 1, 9, 10]),
    ],
)
def test_by_hand(rewards, count, expected):
    chosen = sorted(rewards[i] for i in most_varied(rewards, count))
    mirrored = sorted(1 - x for x in expected)
    assert chosen == expected or chosen == pytest.approx(mirrored)


def test_groups_are_thinned_by_the_raw_reward_and_small_ones_left():
    group = [
        Trajectory(rewards=[r], infos=[{"is_correct": True}], seed=i, shaping=-9.0 * (i == 2))
        for i, r in enumerate([0.5, 0.0, 0.5, 1.0])
    ]
    part = MaximumVariance(keep=2)
    assert [[t.seed for t in g] for g in part.select([group, group[:2]])] == [[1, 3], [0, 1]]


def test_more_than_there_are_is_refused_before_anything_is_made():
    with pytest.raises(ConfigError, match=r"'pods:keep=9': keep=9 is more than num_generations=8"):
        create_strategy("grpo", num_generations=8, parts=["pods:keep=9"])
    with pytest.raises(ConfigError, match=r"strategy: .*keep=17 is more than num_generations=16"):
        GRPOConfig(strategy=("pods:keep=17",))
    with pytest.raises(ConfigError, match="keep must be at least 2, got 1"):
        MaximumVariance(keep=1)
    assert create_strategy("grpo", num_generations=8, parts=["pods:keep=8"]).selection[0].keep == 8


def test_what_was_not_scored_is_left_out_first():
    none = [{"scored": False}]
    group = [Trajectory(rewards=[r], infos=[{}]) for r in (1.0, 0.0, 0.5, 0.6)]
    unscored = [Trajectory(rewards=[0.0], infos=none) for _ in range(2)]
    part = MaximumVariance(keep=2)
    assert part.select([[unscored[0], *group, unscored[1]]]) == [[group[0], group[1]]]
    assert part.select([[unscored[0], group[0], unscored[1]]]) == [[unscored[0], group[0]]]
