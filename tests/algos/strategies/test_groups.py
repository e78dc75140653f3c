"""Outcomes and uniform groups by hand; thinned trees against the trie of their tokens."""

from __future__ import annotations

import itertools

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from textenv.algos import Trajectory
from textenv.algos.episodes.trajectory import policy_tokens
from textenv.algos.strategies import Start, is_uniform, outcome, start_key, thin
from textenv.algos.strategies.groups import by_group


def played(reward, **info):
    return Trajectory(actions=[""], rewards=[reward], infos=[info])


def test_the_outcome_is_what_the_task_says_and_the_reward_where_it_does_not():
    assert outcome(played(0.3, is_correct=True)) == 1
    assert outcome(played(0.9, is_correct=False)) == 0
    assert outcome(played(0.3)) == 0.3
    shaped = played(0.3)
    shaped.shaping = -1.0
    assert outcome(shaped) == 0.3
    turns = Trajectory(rewards=[0.1, 0.2], infos=[{"is_correct": False}, {"is_correct": True}])
    assert outcome(turns) == 1  # of the last step


@pytest.mark.parametrize(
    ("rewards", "uniform"),
    [
        ([1, 1, 1], True),
        ([1, 0, 1], False),
        ([0.1 + 0.2, 0.3, 0.3], True),  # a standard deviation of 3e-17
        ([0.3, 0.3 + 1e-7, 0.3], False),
        ([float("nan"), 1, 1], True),
        ([5.0], True),
    ],
)
def test_uniform_is_by_a_tolerance(rewards, uniform):
    assert is_uniform([played(r) for r in rewards]) is uniform
    assert is_uniform([played(r) for r in rewards], tolerance=2)


def test_groups_in_the_order_in_which_they_come():
    trajectories = [Trajectory(group_id=i, seed=n) for n, i in enumerate([5, 3, 5, 4, 3])]
    assert [[t.seed for t in g] for g in by_group(trajectories)] == [[0, 2], [1, 4], [3]]


def test_a_start_is_known_by_its_example_or_its_seed():
    assert start_key(Start(0, 7, {"example_id": 3})) == 3
    assert start_key(Start(0, 7, None)) == 7
    assert start_key(Trajectory(seed=7, reset_info={"example_id": 3})) == 3
    assert start_key(Trajectory(seed=7)) == 7


# --- trees --------------------------------------------------------------------------------------


def grow(draws):
    """A group in which each trajectory but the first goes off from an earlier one, or not."""
    fresh = itertools.count()
    group = []
    for parent, at, length in draws:
        parent = parent % (len(group) + 1) - 1
        if parent < 0:
            tokens, parent, at = [next(fresh) for _ in range(length)], None, None
        else:
            shared = group[parent].token_ids
            at %= len(shared)
            tokens = shared[:at] + [next(fresh) for _ in range(length)]
        group.append(
            Trajectory(token_ids=tokens, token_mask=[1] * len(tokens), parent=parent, branch_at=at)
        )
    return group


trees = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 5)), min_size=1, max_size=9
)


@given(trees, st.data())
@settings(max_examples=300, deadline=None)
def test_a_thinned_tree_is_the_trie_of_what_is_left(draws, data):
    group = grow(draws)
    keep = data.draw(st.sets(st.integers(0, len(group) - 1), min_size=1))
    before = [(t.parent, t.branch_at, list(t.token_ids)) for t in group]
    thinned = thin(group, keep)
    assert [t.token_ids for t in thinned] == [group[i].token_ids for i in sorted(keep)]
    for t in thinned:
        assert (t.parent is None) == (t.branch_at is None)
        if t.parent is not None:
            other = thinned[t.parent].token_ids
            assert t.token_ids[: t.branch_at] == other[: t.branch_at]
            assert t is not thinned[t.parent]
    nodes = {tuple(t.token_ids[: n + 1]) for t in thinned for n in range(len(t.token_ids))}
    assert policy_tokens(thinned) == len(nodes)
    assert [(t.parent, t.branch_at, t.token_ids) for t in group] == before  # untouched
