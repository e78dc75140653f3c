"""Batches that older weights have sampled."""

import math

import numpy as np
import pytest

from tests.algos.shared import random_batch
from textenv.algos import GRPOConfig
from textenv.algos.grpo import policy_loss
from textenv.algos.training.importance import correct
from textenv.errors import ConfigError


def test_weights_by_hand():
    batch = random_batch([2, 1], [0, 0], [3])  # log-probabilities of -2 each
    present = np.array([[-2 + math.log(1.5), -2 + math.log(8)], [-2 + math.log(0.5), 7.0]])
    after, advantages, metrics = correct(batch, np.array([1.0, -3.0], np.float32), present, 2.0)
    np.testing.assert_allclose(advantages[0], [1.5, 2.0], rtol=1e-6)
    assert advantages[1, 0] == pytest.approx(-1.5)
    np.testing.assert_allclose(after.old_logprobs[0], present[0], rtol=1e-6)
    assert after.old_logprobs[1, 1] == 0  # there is no token
    assert metrics["sampling/importance_weight/mean"] == pytest.approx((1.5 + 2 + 0.5) / 3)
    assert metrics["sampling/importance_weight/truncated"] == pytest.approx(1 / 3)
    assert (batch.old_logprobs[batch.mask > 0] == -2).all()


def test_what_is_not_known_counts_as_unchanged():
    batch = random_batch([1, 2], [0, 0], [3])
    present = np.array([[-2 + math.log(1.5), 0.0], [np.nan, np.nan]])
    after, advantages, metrics = correct(batch, np.array([1.0, -3.0], np.float32), present, 2.0)
    np.testing.assert_allclose(advantages, [[1.5, 1.0], [-3.0, -3.0]], rtol=1e-6)
    np.testing.assert_array_equal(after.old_logprobs[1], batch.old_logprobs[1])
    assert metrics["sampling/importance_weight/mean"] == pytest.approx(1.5)


def test_what_the_present_weights_sampled_stays_as_it_is():
    batch = random_batch([3, 2], [0, 1], [3, 2])
    advantages = np.array([[0.5, 1, -1], [2, -2, 0]], np.float32)
    after, same, metrics = correct(batch, advantages, batch.old_logprobs.copy(), 2.0)
    np.testing.assert_array_equal(same, advantages)
    np.testing.assert_array_equal(after.old_logprobs, batch.old_logprobs)
    assert metrics == {
        "sampling/importance_weight/mean": 1.0,
        "sampling/importance_weight/truncated": 0.0,
    }


def test_the_corrected_gradient_is_that_of_the_present_policy():
    """Over all tokens that may be drawn, p/q weighs the gradient under q to that under p."""
    import mlx.core as mx

    rng = np.random.default_rng(0)
    logits = mx.array(rng.normal(size=5).astype(np.float32))
    p = np.array(mx.softmax(logits), np.float64)
    q = rng.dirichlet(np.full(5, 20.0))
    rewards = rng.normal(size=5)
    batch = random_batch([1] * 5, [0] * 5, [2])
    batch.old_logprobs[:, 0] = np.log(q)
    after, advantages, _ = correct(batch, rewards.astype(np.float32), np.log(p)[:, None], 1e6)

    def loss(logits, i):
        logprob = (logits - mx.logsumexp(logits))[i].reshape(1, 1)
        one = mx.array(after.old_logprobs[i : i + 1]), mx.array(advantages[i : i + 1])
        return policy_loss(logprob, *one, mx.ones((1, 1)))[0]

    found = sum(q[i] * np.array(mx.grad(loss)(logits, i), np.float64) for i in range(5))
    expected = -p * (rewards - p @ rewards)  # of minus the mean reward under p
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "needs num_workers"),
        ({"num_workers": 1, "loss_type": "gspo"}, "no meaning for loss_type='gspo'"),
        ({"num_workers": 1, "strategy": ("replay",)}, "earlier rollouts"),
        ({"num_workers": 1, "importance_cap": 0.5}, "importance_cap"),
    ],
)
def test_what_cannot_be_ahead_is_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        GRPOConfig(rollouts_ahead=1, **settings)
