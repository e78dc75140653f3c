"""GRPO's advantages against numbers by hand and a slow loop."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from textenv.algos import grpo


def slow_advantages(rewards, groups, scale):
    """By the definition, one trajectory at a time."""
    scored = [r for r in rewards if not math.isnan(r)]
    out = []
    for reward, group in zip(rewards, groups):
        own = [r for r, g in zip(rewards, groups) if g == group and not math.isnan(r)]
        if math.isnan(reward) or len(own) < 2 or max(own) - min(own) <= 1e-8:
            out.append(0.0)
            continue
        std = {"group": own, "batch": scored}.get(scale)
        divisor = 1.0 if std is None else np.std(std, ddof=1) + 1e-4
        out.append((reward - sum(own) / len(own)) / divisor)
    return np.array(out)


def test_group_advantage_by_hand():
    # mean 1/4, squared deviations 9/16 + 3/16, variance (12/16)/3 = 1/4, std 1/2
    advantages = grpo.compute_advantages([1, 0, 0, 0], [7, 7, 7, 7])
    np.testing.assert_allclose(advantages, [0.75 / 0.5001] + [-0.25 / 0.5001] * 3, rtol=1e-12)
    np.testing.assert_allclose(advantages, [1.4997, -0.4999, -0.4999, -0.4999], atol=5e-5)


def test_gold_standard_group():
    # rewards 1, 1, 0, 0, .5: mean .5, variance (4 * .25 + 0) / 4 = .25, std .5
    advantages = grpo.compute_advantages([1, 1, 0, 0, 0.5], [0] * 5, eps=0.0)
    np.testing.assert_allclose(advantages, [1, 1, -1, -1, 0], rtol=1e-12)


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        ("none", [0.5, -0.5, 1.5, -1.5]),
        ("group", [0.5 / 0.7072068, -0.5 / 0.7072068, 1.5 / 2.1214203, -1.5 / 2.1214203]),
        ("batch", [0.5 / 1.4143136, -0.5 / 1.4143136, 1.5 / 1.4143136, -1.5 / 1.4143136]),
    ],
)
def test_scale_rewards_by_hand(scale, expected):
    # rewards 1, 0 | 3, 0: group stds sqrt(.5) and sqrt(4.5), batch variance (0 + 1 + 4 + 1) / 3
    advantages = grpo.compute_advantages([1, 0, 3, 0], [0, 0, 1, 1], scale_rewards=scale)
    np.testing.assert_allclose(advantages, expected, rtol=1e-6)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_advantages_against_a_slow_loop(scale, data):
    size = data.draw(st.integers(1, 24))
    reward = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(-3, 3), st.just(math.nan))
    rewards = data.draw(st.lists(reward, min_size=size, max_size=size))
    groups = data.draw(st.lists(st.integers(0, 4), min_size=size, max_size=size))
    advantages = grpo.compute_advantages(rewards, groups, scale_rewards=scale)
    expected = slow_advantages(rewards, groups, scale)
    np.testing.assert_allclose(advantages, expected, rtol=1e-9, atol=1e-12)


@given(
    st.lists(st.tuples(st.floats(-2, 2), st.integers(0, 3)), min_size=2, max_size=20),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_a_group_does_not_feel_the_others_nor_the_order(pairs, random):
    rewards, groups = map(np.array, zip(*pairs))
    whole = grpo.compute_advantages(rewards, groups)
    for group in set(groups.tolist()):
        alone = grpo.compute_advantages(rewards[groups == group], groups[groups == group])
        np.testing.assert_allclose(whole[groups == group], alone, rtol=1e-12)
    order = list(range(len(pairs)))
    random.shuffle(order)
    shuffled = grpo.compute_advantages(rewards[order], groups[order])
    np.testing.assert_allclose(shuffled, whole[order], rtol=1e-6, atol=1e-9)


def test_rows_without_a_reward():
    nan = math.nan
    advantages = grpo.compute_advantages([1, 0, nan, nan, nan, 2], [0, 0, 0, 1, 1, 1])
    np.testing.assert_allclose(advantages[:2], [0.5 / 0.7072068, -0.5 / 0.7072068], rtol=1e-6)
    assert advantages[2:].tolist() == [0, 0, 0, 0]  # unscored, or alone in its group


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_rewards_equal_up_to_rounding_have_no_advantage(scale):
    sums = [0.1 + 0.2, 0.3, 0.3 + 1e-12, 0.3 - 1e-12]
    assert len(set(sums)) > 1
    assert not grpo.compute_advantages(sums, [0] * 4, scale_rewards=scale).any()


def test_unknown_scale_is_named():
    with pytest.raises(ValueError, match="unknown scale_rewards 'grup'; did you mean 'group'"):
        grpo.compute_advantages([1, 0], [0, 0], scale_rewards="grup")
