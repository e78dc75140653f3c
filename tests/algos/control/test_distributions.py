"""Distributions of actions against Stable-Baselines3's, and against what they draw."""

import numpy as np
import pytest
from gymnasium import spaces

from textenv.algos.control.distributions import make_distribution

import mlx.core as mx  # isort: skip
from tests.algos.control.shared import ACTIONS


@pytest.mark.parametrize("kind", ACTIONS)
def test_drawn_logprobs_are_those_of_the_loss(kind):
    space = ACTIONS[kind]
    distribution = make_distribution(space)
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(50, distribution.outputs)).astype(np.float32)
    log_std = None
    if distribution.learns_std:
        log_std = rng.normal(size=distribution.outputs).astype(np.float32)
    drawn, logprob = distribution.draw(outputs, log_std, rng, False)
    scored, _ = distribution.score(
        mx.array(outputs), None if log_std is None else mx.array(log_std), mx.array(drawn), None
    )
    np.testing.assert_allclose(logprob, np.array(scored), atol=1e-5)
    actions = distribution.to_env(drawn)
    assert all(space.contains(action) for action in actions)
    if not distribution.learns_std:
        np.testing.assert_array_equal(distribution.from_env(actions), drawn)


@pytest.mark.parametrize("kind", ["discrete", "multi", "box"])
def test_distributions_are_those_of_sb3(kind):
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("stable_baselines3.common.distributions")
    space = ACTIONS[kind]
    ours = make_distribution(space)
    rng = np.random.default_rng(3)
    outputs = rng.normal(size=(30, ours.outputs)).astype(np.float32)
    other = theirs.make_proba_distribution(space)
    log_std = None
    if kind == "box":
        log_std = rng.normal(size=ours.outputs).astype(np.float32)
        other = other.proba_distribution(torch.tensor(outputs), torch.tensor(log_std))
    else:
        other = other.proba_distribution(torch.tensor(outputs))
    drawn, _ = ours.draw(outputs, log_std, rng, False)
    logprob, entropy = ours.score(
        mx.array(outputs), None if log_std is None else mx.array(log_std), mx.array(drawn), None
    )
    chosen = torch.tensor(drawn[:, 0] if kind == "discrete" else drawn)
    np.testing.assert_allclose(np.array(logprob), other.log_prob(chosen).numpy(), atol=1e-5)
    np.testing.assert_allclose(np.array(entropy), other.entropy().numpy(), atol=1e-5)
    best, _ = ours.draw(outputs, log_std, rng, True)
    np.testing.assert_allclose(best.reshape(chosen.shape), other.mode().numpy())


def test_draws_have_the_probabilities_that_they_report():
    distribution = make_distribution(spaces.Discrete(3))
    logits = np.log(np.array([[0.2, 0.3, 0.5]], np.float32)).repeat(20_000, axis=0)
    drawn, logprob = distribution.draw(logits, None, np.random.default_rng(0), False)
    shares = np.bincount(drawn[:, 0]) / len(drawn)
    np.testing.assert_allclose(shares, [0.2, 0.3, 0.5], atol=0.015)  # 4 standard errors
    np.testing.assert_allclose(np.exp(logprob), np.array([0.2, 0.3, 0.5])[drawn[:, 0]], rtol=1e-5)


def test_a_masked_action_is_never_drawn_and_the_rest_is_renormalised():
    distribution = make_distribution(spaces.MultiDiscrete([2, 3]))
    outputs = np.zeros((1000, 5), np.float32)
    mask = np.array([[True, False, False, True, True]]).repeat(1000, axis=0)
    drawn, logprob = distribution.draw(outputs, None, np.random.default_rng(0), False, mask)
    assert set(drawn[:, 0]) == {0} and set(drawn[:, 1]) == {1, 2}
    np.testing.assert_allclose(np.exp(logprob), 0.5, rtol=1e-5)
    scored, entropy = distribution.score(mx.array(outputs), None, mx.array(drawn), mx.array(mask))
    np.testing.assert_allclose(np.array(scored), logprob, atol=1e-5)
    np.testing.assert_allclose(np.array(entropy), np.log(2), atol=1e-5)


def test_many_actions_against_float64():
    """One by one, the numbers of a token environment's actions would not add up."""
    import mlx.core as mx

    size = 49_152
    outputs = np.full((1, size), -12, np.float32)
    outputs[0, 0] = 0
    exact = outputs[0].astype(np.float64)
    exact -= np.log(np.exp(exact).sum())
    distribution = make_distribution(spaces.Discrete(size))
    logprob, entropy = distribution.score(mx.array(outputs), None, mx.array([[0]]), None)
    assert logprob.item() == pytest.approx(exact[0], abs=5e-5)
    assert entropy.item() == pytest.approx(-(np.exp(exact) * exact).sum(), abs=1e-4)
    _, logprob = distribution.draw(outputs, None, np.random.default_rng(0), True, None)
    assert logprob[0] == pytest.approx(exact[0], abs=5e-5)
