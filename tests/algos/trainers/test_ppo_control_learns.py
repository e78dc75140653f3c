"""What PPO learns on control."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from tests.algos.control_envs import Bandit, Endless, choices, quick
from textenv.algos import load_policy
from textenv.algos.evaluation.measure import episode_returns
from textenv.algos.ppo_config import preset
from textenv.algos.trainers.ppo import PPOTrainer


def test_cartpole_is_solved(tmp_path):
    config = preset("CartPole-v1")
    trainer = PPOTrainer("mlp", env="CartPole-v1", config=config)
    env = gym.make("CartPole-v1")
    assert episode_returns(trainer.policy, env, 10, seed=2**30).mean() < 100
    trainer.train()
    assert episode_returns(trainer.policy, env, 10, seed=2**30).mean() >= 475
    assert trainer.history[-1]["rollout/ep_rew_mean"] >= 450
    assert trainer.num_timesteps >= 100_000
    trainer.save(tmp_path / "model")
    loaded = load_policy(tmp_path / "model")
    assert episode_returns(loaded, env, 3, seed=2**30).mean() >= 475


def taught(env, updates=30, **settings):
    settings = {"learning_rate": 3e-3, "total_timesteps": 256 * updates} | settings
    trainer = PPOTrainer("mlp", env=env, config=quick(**settings))
    trainer.train()
    return trainer.policy


def share_of(policy, wanted, **call):
    """How often the policy, sampled, does what is wanted."""
    rows = np.random.default_rng(5).uniform(-1, 1, (2000, 2)).astype(np.float32)
    actions, _ = policy(rows, **call)
    return np.mean([wanted(action, row) for action, row in zip(actions, rows)])


def test_random_rewards_teach_nothing():
    """The same budget: with a signal one action is nearly sure, without it neither is."""
    signal = taught(Bandit())
    assert share_of(signal, lambda action, row: action == 1) > 0.95
    shares = [
        share_of(
            taught(Bandit(reward=lambda action, observation, rng: rng.integers(2)), seed=seed),
            lambda action, row: action == 1,
        )
        for seed in range(4)
    ]
    assert abs(np.mean(shares) - 0.5) < 0.2, shares


def test_a_choice_that_depends_on_the_observation():
    env = Bandit(reward=lambda action, observation, rng: action == (observation[0] > 0))
    policy = taught(env, 40)
    assert share_of(policy, lambda action, row: action == (row[0] > 0)) > 0.9


def test_several_choices_at_once():
    policy = taught(choices(), 100)
    assert share_of(policy, lambda action, row: action[0] == 2 and action[1] == 0) > 0.9


def test_a_box_of_actions():
    space = spaces.Box(-1, 1, (1,))
    env = Bandit(space, lambda action, observation, rng: -((action[0] - 0.6) ** 2))
    policy = taught(env, 60, learning_rate=0.01)
    assert (
        share_of(policy, lambda action, row: abs(action[0] - 0.6) < 0.15, deterministic=True) == 1
    )


def test_flat_dicts_of_observations():
    inner = Bandit(reward=lambda action, observation, rng: action == (observation[1] > 0))
    space = spaces.Dict({"x": spaces.Box(-1, 1, (1,)), "y": spaces.Box(-1, 1, (1,))})
    env = gym.wrappers.TransformObservation(inner, lambda o: {"x": o[:1], "y": o[1:]}, space)
    policy = taught(env, 40)
    rows = np.random.default_rng(5).uniform(-1, 1, (1000, 2)).astype(np.float32)
    actions, _ = policy({"x": rows[:, :1], "y": rows[:, 1:]})
    assert np.mean(actions == (rows[:, 1] > 0)) > 0.9


def test_masked_actions_are_never_taken_and_the_best_allowed_one_is_learnt():
    """The best action of all is masked; the mask reaches collection and update alike."""
    mask = np.array([1, 1, 0], np.int8)
    seen = []

    def reward(action, observation, rng):
        seen.append(int(action))
        return float(action)

    policy = taught(Bandit(spaces.Discrete(3), reward, mask=mask))
    assert set(seen) == {0, 1}
    infos = [{"action_mask": mask}] * 2000
    assert share_of(policy, lambda action, row: action == 1, infos=infos) > 0.95


@pytest.mark.parametrize(("bootstrap", "value"), [(True, 10.0), (False, 3.0)])
def test_a_truncated_episode_is_worth_what_would_have_come(bootstrap, value):
    """At discount .9 endless ones are worth 10; five of them, seen from the middle, about 3."""
    policy = taught(
        Endless(), 60, gamma=0.9, gae_lambda=0.9, bootstrap_truncated=bootstrap, learning_rate=0.02
    )
    worth = sum(sum(0.9**k for k in range(left)) for left in range(1, 6)) / 5
    expected = value if bootstrap else worth
    assert expected == pytest.approx(value, abs=0.4)
    assert policy.values([np.zeros(1, np.float32)])[0] == pytest.approx(expected, rel=0.15)


def test_normalisation_makes_scales_no_matter():
    """Rewards of thousands and observations far from 0: the same lesson, value in their units."""

    def reward(action, observation, rng):
        return 3000.0 * (action == (observation[0] > 500))

    env = Bandit(reward=reward, observe=lambda rng: 500 + 200 * rng.uniform(-1, 1, 2))
    env.observation_space = spaces.Box(-1e4, 1e4, (2,))
    policy = taught(env, 40, normalize_observations=True, normalize_rewards=True)
    rows = np.random.default_rng(5).uniform(300, 700, (1000, 2)).astype(np.float32)
    actions, extras = policy(rows)
    assert np.mean(actions == (rows[:, 0] > 500)) > 0.9
    assert np.mean(extras["value"]) == pytest.approx(3000, rel=0.2)
    assert policy.reward_scale == pytest.approx(1500, rel=0.5)
