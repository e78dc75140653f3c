"""Soft overlong punishment: equation 13 by hand; it reaches the advantages and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from textenv.algos import Trajectory, create_strategy, grpo
from textenv.algos.lm.scoring.batch import make_batch
from textenv.algos.rollouts.metrics import rollout_metrics
from textenv.algos.strategies import outcome
from textenv.algos.strategies.selection.dapo import DynamicSampling
from textenv.algos.strategies.selection.overlong import OverlongPunishment, punishment
from textenv.errors import ConfigError


@pytest.mark.parametrize(
    ("length", "lost"),
    # the paper's own numbers: 16384 expected, a cache of 4096
    [(0, 0), (16384, 0), (17408, -0.25), (18432, -0.5), (20480, -1), (30000, -1)],
)
def test_the_papers_numbers(length, lost):
    assert punishment(length, 20480, 4096) == lost


class Policy:
    class params:
        max_tokens = 10

    def __call__(self, observation):
        return "", {}


def row(length, right, seed=0, mask=None):
    return Trajectory(
        actions=[""],
        rewards=[float(right)],
        infos=[{"is_correct": bool(right)}],
        prompt_ids=[1],
        token_ids=[2] * length,
        token_mask=mask or [1] * length,
        token_logprobs=[-1.0] * length,
        group_id=0,
        seed=seed,
    )


def test_it_reaches_the_advantages_and_nothing_else(prepared):
    part = prepared(OverlongPunishment(), policy=Policy())  # limit 10, cache 2
    group = [row(8, True), row(9, True), row(10, False), row(3, False)]
    [shaped] = part.select([group])
    assert [t.shaping for t in shaped] == [None, -0.5, -1.0, None]
    assert [t.shaping for t in group] == [None] * 4  # copies are shaped
    assert [t.rewards for t in shaped] == [t.rewards for t in group]
    assert [outcome(t) for t in shaped] == [1, 1, 0, 0]
    assert rollout_metrics(shaped)["reward"] == 0.5
    batch = make_batch(shaped)
    assert batch.rewards.tolist() == [1, 0.5, -1, 0]
    # mean .125, squared deviations .765625, .140625, 1.265625, .015625: variance 2.1875 / 3
    advantages = grpo.compute_advantages(batch.rewards, batch.group_ids, eps=0)
    expected = np.array([0.875, 0.375, -1.125, -0.125]) / (2.1875 / 3) ** 0.5
    np.testing.assert_allclose(advantages, expected, rtol=1e-12)


def test_a_group_of_equal_outcomes_stays_without_information(prepared):
    part = prepared(OverlongPunishment(), policy=Policy())
    groups = part.select([[row(8, True), row(10, True)], [row(8, True), row(8, False)]])
    assert groups[0][1].shaping == -1
    assert DynamicSampling().select(groups) == [groups[1]]


def test_the_longest_turn_counts(prepared):
    part = prepared(OverlongPunishment(), policy=Policy())
    mask = [1] * 6 + [0] * 3 + [1] * 9 + [0] + [1] * 5
    [[shaped]] = part.select([[row(len(mask), True, mask=mask)]])
    assert shaped.shaping == -0.5


def test_a_limit_of_ones_own(prepared):
    part = prepared(OverlongPunishment(max_length=8, cache=8))
    [group] = part.select([[row(2, True), row(8, True)]])
    assert [t.shaping for t in group] == [-0.25, -1]
    with pytest.raises(ConfigError, match="max_length must be set"):
        prepared(OverlongPunishment())
    with pytest.raises(ConfigError, match="cache=9 is more than max_length=8"):
        prepared(OverlongPunishment(max_length=8, cache=9))
    with pytest.raises(ConfigError, match="cache must be at least 1"):
        create_strategy("grpo", parts=["overlong:cache=0"])
