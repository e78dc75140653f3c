"""GSPO: one ratio a sequence, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from textenv.algos import grpo, gspo


def test_gspo_uses_the_geometric_mean_of_the_ratios():
    logprobs = np.log(np.array([[2.0, 0.5, 1.1, 99.0]]))  # the mean over three tokens: 1.1^(1/3)
    mask = np.array([[1, 1, 1, 0]])
    loss, _ = gspo.policy_loss(logprobs, np.zeros((1, 4)), np.ones(1), mask)
    assert -loss.item() == pytest.approx(1.1 ** (1 / 3), rel=1e-6)
    tight, metrics = gspo.policy_loss(logprobs, np.zeros((1, 4)), np.ones(1), mask, epsilon=0.01)
    assert -tight.item() == pytest.approx(1.01, rel=1e-6)
    assert metrics["clip_ratio/high_mean"].item() == 1.0  # a sequence is clipped as a whole


def test_a_completion_counts_as_much_as_every_other():
    """Equation 5: the mean over sequences, whatever their lengths; and over their ratios."""
    logprobs = np.log(np.array([[1.1, 1.1, 1.1, 1.1], [0.9, 9.0, 9.0, 9.0]]))
    mask = np.array([[1, 1, 1, 1], [1, 0, 0, 0]])
    loss, _ = gspo.policy_loss(logprobs, np.zeros((2, 4)), np.array([1.0, 3.0]), mask)
    assert -loss.item() == pytest.approx((1.1 + 3 * 0.9) / 2, rel=1e-6)


def test_the_gradient_of_a_token_is_its_share_of_the_sequence():
    """d(-A r) / d(logprob) = -A r / length for each token, where nothing is clipped."""
    import mlx.core as mx

    logprobs = mx.log(mx.array([[1.1, 1.0, 0.95]]))
    ratio = (1.1 * 1.0 * 0.95) ** (1 / 3)

    def loss_fn(logprobs):
        return gspo.policy_loss(logprobs, mx.zeros((1, 3)), mx.array([2.0]), mx.ones((1, 3)))[0]

    np.testing.assert_allclose(mx.grad(loss_fn)(logprobs), [[-2 * ratio / 3] * 3], rtol=1e-5)


def test_advantages_are_those_of_grpo():
    assert gspo.compute_advantages is grpo.compute_advantages
