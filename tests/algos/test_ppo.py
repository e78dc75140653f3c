"""PPO's objective and settings: numbers worked by hand, and Stable-Baselines3's own code."""

import itertools

import numpy as np
import pytest

from textenv.algos.episodes.trajectory import Trajectory
from textenv.algos.ppo import (
    bootstrap_value,
    explained_variance,
    gae,
    last_epoch_mean,
    minibatches,
    policy_loss,
    value_loss,
)
from textenv.algos.ppo_config import PPOConfig
from textenv.algos.trainers.ppo import PPOTrainer
from textenv.errors import ConfigError

import mlx.core as mx  # isort: skip


@pytest.mark.parametrize(
    ("gamma", "gae_lambda", "returns"),
    [(1.0, 0.5, [3.625, 4.25, 3.0]), (0.5, 1.0, [2.75, 3.5, 3.0])],
)
def test_returns_by_hand(gamma, gae_lambda, returns):
    advantages, got = gae([1, 2, 3], [0.5, 1, 1.5], 0.0, gamma, gae_lambda)
    np.testing.assert_allclose(got, returns)
    np.testing.assert_allclose(advantages + np.array([0.5, 1, 1.5]), returns)


def test_a_last_value_is_discounted_once_a_step():
    # No rewards, no values: with lambda 1 each advantage is the last value, discounted.
    advantages, _ = gae([0, 0, 0], [0, 0, 0], 8.0, 0.5, 1.0)
    np.testing.assert_allclose(advantages, [1, 2, 4])
    # With lambda 0 only the last step sees it.
    np.testing.assert_allclose(gae([0, 0, 0], [0, 0, 0], 8.0, 0.5, 0.0)[0], [0, 0, 4])


def test_gae_is_that_of_sb3s_buffer():
    """Random data with ends inside; SB3 takes what follows an end as a flag."""
    sb3 = pytest.importorskip("stable_baselines3.common.buffers")
    import torch
    from gymnasium import spaces

    rng = np.random.default_rng(0)
    steps, envs = 40, 3
    rewards, values = rng.normal(size=(2, steps, envs)).astype(np.float32)
    starts = (rng.random((steps + 1, envs)) < 0.15).astype(np.float32)
    last = rng.normal(size=envs).astype(np.float32)
    box = spaces.Box(-1, 1, (1,))
    buffer = sb3.RolloutBuffer(steps, box, box, "cpu", 0.9, 0.97, envs)
    zeros = np.zeros((envs, 1), np.float32)
    for t in range(steps):
        buffer.add(zeros, zeros, rewards[t], starts[t], torch.tensor(values[t]), torch.zeros(envs))
    buffer.compute_returns_and_advantage(torch.tensor(last), dones=starts[steps])
    for env in range(envs):
        edges = [0, *(t for t in range(1, steps + 1) if starts[t, env]), steps]
        for first, end in itertools.pairwise(edges):
            if first == end:
                continue
            rows = slice(first, end)
            after = 0.0 if end <= steps and starts[end, env] else float(last[env])
            advantages, returns = gae(rewards[rows, env], values[rows, env], after, 0.97, 0.9)
            np.testing.assert_allclose(advantages, buffer.advantages[rows, env], atol=1e-5)
            np.testing.assert_allclose(returns, buffer.returns[rows, env], atol=1e-5)


def one(values):
    return mx.array(values, dtype=mx.float32)[:, None]


def test_losses_by_hand():
    ratio, advantages = one([0.5, 1, 10]), one([1, -1, -4])
    args = mx.log(ratio), mx.zeros((3, 1)), advantages, mx.ones((3, 1))
    loss, metrics = policy_loss(*args)
    # -min(.5, .8), -min(-1, -1), -min(-40, -4.8)
    assert loss.item() * 3 == pytest.approx(-0.5 + 1 + 40) and loss.item() == pytest.approx(13.5)
    assert metrics["clip_fraction"].item() == pytest.approx(2 / 3)
    kl = np.mean([r - 1 - np.log(r) for r in (0.5, 1, 10)])
    assert metrics["approx_kl"].item() == pytest.approx(kl, rel=1e-5)
    dual, _ = policy_loss(*args, dual_clip=3.0)
    assert dual.item() == pytest.approx(4.16667, abs=1e-5)
    with pytest.raises(ConfigError, match="dual_clip must be above 1, got 1"):
        policy_loss(*args, dual_clip=1)


def test_the_mask_hides_whatever_is_under_it():
    logprobs = mx.array([[0.0, float("nan")], [0.0, float("inf")]])
    old = mx.zeros((2, 2))
    mask = mx.array([[1.0, 0.0], [1.0, 0.0]])
    loss, metrics = policy_loss(logprobs, old, mx.array([1.0, 3.0]), mask)
    assert loss.item() == pytest.approx(-2.0)
    assert metrics["approx_kl"].item() == 0
    grads = mx.grad(lambda x: policy_loss(x, old, mx.array([1.0, 3.0]), mask)[0])(logprobs)
    np.testing.assert_allclose(np.array(grads), [[-0.5, 0], [-1.5, 0]])


def test_parts_of_a_batch_add_up_to_the_whole():
    from textenv.algos.lm.scoring.batch import BatchSize

    rng = np.random.default_rng(1)
    logprobs, old = mx.array(rng.normal(size=(2, 6, 4)).astype(np.float32) * 0.2)
    advantages = mx.array(rng.normal(size=(6, 4)).astype(np.float32))
    mask = mx.array((rng.random((6, 4)) < 0.7).astype(np.float32))
    size = BatchSize(6, mask.sum().item())
    whole, _ = policy_loss(logprobs, old, advantages, mask)
    parts = [
        policy_loss(logprobs[r], old[r], advantages[r], mask[r], batch_size=size)[0].item()
        for r in (slice(0, 2), slice(2, 6))
    ]
    assert sum(parts) == pytest.approx(whole.item(), abs=1e-6)
    whole = value_loss(logprobs, old, advantages, mask)
    parts = [
        value_loss(logprobs[r], old[r], advantages[r], mask[r], batch_size=size).item()
        for r in (slice(0, 2), slice(2, 6))
    ]
    assert sum(parts) == pytest.approx(whole.item(), abs=1e-6)


def test_a_value_counts_as_no_farther_than_its_clip():
    args = one([3.0, 0.1]), one([0.0, 0.0]), one([5.0, 1.0]), mx.ones((2, 1))
    assert value_loss(*args).item() == pytest.approx((4 + 0.81) / 2)
    # 3 counts as .5, .1 as itself
    assert value_loss(*args, clip_range_vf=0.5).item() == pytest.approx((4.5**2 + 0.81) / 2)


def test_explained_variance():
    returns = np.array([1.0, 2.0, 3.0])
    assert explained_variance(returns, returns) == 1
    assert explained_variance(np.zeros(3), returns) == 0
    assert explained_variance(-returns, returns) == pytest.approx(-3)
    assert explained_variance(returns, np.ones(3)) == 0


@pytest.mark.parametrize(
    ("terminated", "truncated", "on", "off"),
    [(True, False, 0, 0), (False, True, 7, 0), (False, False, 7, 7)],
)
def test_what_comes_after_the_last_step(terminated, truncated, on, off):
    trajectory = Trajectory(terminated=terminated, truncated=truncated, last_value=7.0)
    assert bootstrap_value(trajectory, True) == on
    assert bootstrap_value(trajectory, False) == off


def test_every_row_is_in_one_minibatch_of_an_epoch():
    config = PPOConfig(batch_size=4, n_epochs=3)
    batches = list(minibatches(config, 10, np.random.default_rng(0)))
    assert [len(b) for b in batches] == [4, 4, 2] * 3
    epochs = [np.concatenate(batches[i : i + 3]).tolist() for i in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_the_mean_of_the_last_epoch():
    """Ten rows in minibatches of four: 0 to 2 are the first epoch, 3 to 5 the second."""
    config = PPOConfig(batch_size=4, n_epochs=2)
    assert last_epoch_mean(dict(enumerate([9.0, 9.0, 9.0, 1.0, 2.0, 6.0])), config, 10) == 3
    assert last_epoch_mean({0: 9.0, 2: 9.0, 4: 2.0, 5: 3.0}, config, 10) == 2.5  # two were skipped
    assert last_epoch_mean({0: 9.0, 1: 1.0, 2: 5.0}, config, 10) == 5  # target_kl ended the first
    assert last_epoch_mean({}, config, 10) == 0


@pytest.mark.parametrize(
    ("model", "env", "said"),
    [
        ("tiny-lm", "CartPole-v1", "model must be 'mlp' on an environment of control"),
        ("mlp", "NoSuch-v0", "'NoSuch-v0' is not registered"),
        ("mlp", "FrozenLake-v1", "observations must be Box.*Discrete.*FlattenObservation"),
    ],
)
def test_a_trainer_that_cannot_be(model, env, said):
    with pytest.raises(ConfigError, match=said):
        PPOTrainer(model, env=env, config=PPOConfig())
