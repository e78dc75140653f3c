"""The facts of a step, against numbers worked by hand, and windows of steps."""

import pytest

from tests.algos.rollouts.health.shared import facts, played
from textenv.algos.rollouts.health.facts import (
    facts_of,
    first,
    group_means,
    is_solved,
    last,
)


def test_every_fact_by_hand():
    rollout = played(
        [[1, 0, 0, 1], [0, 0, 0, 0]], judged=True, cut=[True] * 3 + [False] * 5, length=3
    )
    metrics = {
        **{"entropy": 0.25, "completions/mean_length": 3.0},
        **{"sampling/logprob_difference/max": 1e-5, "clip_ratio/region_mean": 0.125},
    }
    found = facts_of(7, metrics, rollout)
    assert (found.step, found.completions, found.scored, found.judged) == (7, 8, 8, True)
    assert (found.low, found.high, found.groups, found.uniform) == (0, 1, (0.5, 0.0), 1)
    assert (found.cut, found.grouped, found.mean, found.comparable) == (3, True, 0.25, True)
    assert (found.entropy, found.mismatch, found.clipped) == (0.75, 1e-5, 0.125)


def test_rewards_count_if_the_task_cannot_tell_and_ppo_has_no_groups():
    found = facts_of(1, {"train/clip_fraction": 0.2}, played([[-1.0], [0.5]], judged=False))
    assert (found.low, found.high, found.judged, found.grouped) == (-1.0, 0.5, False, False)
    assert found.clipped == 0.2 and found.entropy is None and found.mismatch is None


def test_what_abstained_is_not_scored():
    found = facts_of(1, {}, played([[None, None], [1, None]], judged=False))
    assert (found.completions, found.scored, found.groups) == (4, 1, (1.0,))


def test_levels_cannot_be_compared():
    assert not facts_of(1, {}, played([[1, 0]], judged=True, level=3)).comparable
    assert not facts_of(1, {}, played([[1, 0]], judged=True), comparable=False).comparable


@pytest.mark.parametrize(("completions", "steps", "expected"), [(8, 1, 1), (9, 1, 2), (8, 3, 3)])
def test_windows_are_as_short_as_they_may_be(completions, steps, expected):
    course = [facts([[1, 0] * 4], step=n) for n in range(1, 6)]
    assert [f.step for f in first(course, completions, steps)] == list(range(1, expected + 1))
    assert [f.step for f in last(course, completions, steps)] == list(range(6 - expected, 6))


def test_there_is_no_window_of_too_few():
    course = [facts([[1, 0]])] * 3
    assert first(course, 7) == last(course, 7) == last(course, 1, 4) == first([], 1) == []
    assert group_means([facts([[1, 0], [1, 1]]), facts([[0, 0]])]).tolist() == [0.5, 1.0, 0.0]


def test_solved_is_near_the_best_outcome():
    assert is_solved([facts([[1] * 9 + [0]])], 0.9)
    assert not is_solved([facts([[1] * 8 + [0] * 2])], 0.9)
    assert is_solved([facts([[5.0, 4.8]], judged=False)], 0.9)
    assert not is_solved([facts([[-1.0, -1.0]], judged=False)], 0.9)
