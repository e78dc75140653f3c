"""Stable-Baselines3 evaluates our policies, and its own agents driven by us."""

import gymnasium as gym
import numpy as np
import pytest

from tests.wrappers.sb3_agents import AGENTS, agent
from textenv.errors import ConfigTypeError
from textenv.wrappers.sb3 import SB3Policy, as_sb3_policy

pytest.importorskip("stable_baselines3")

from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", ["PPO", "DQN", "SAC", "RecurrentPPO"])
def test_an_agent_scores_what_it_scores_without_us(name):
    model = agent(name)
    venv = make_vec_env(AGENTS[name], 2, seed=1)
    expected = evaluate_policy(model, venv, 4, return_episode_rewards=True)
    venv.seed(1)
    again = evaluate_policy(as_sb3_policy(SB3Policy(model)), venv, 4, return_episode_rewards=True)
    np.testing.assert_allclose(again[0], expected[0], rtol=1e-5)
    assert again[1] == expected[1]


class Ladder(gym.Env):
    """Step t gives t times the action as its reward; the third step is the last."""

    observation_space = gym.spaces.Box(0, 9, (1,), np.float32)
    action_space = gym.spaces.Discrete(4)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.rung = 1
        return np.float32([self.rung]), {}

    def step(self, action):
        reward, self.rung = float(self.rung * action), self.rung + 1
        return np.float32([self.rung]), reward, self.rung > 3, False, {}


def one_rung(observation, deterministic=False):
    assert observation.shape == (1,)
    return int(observation[0]) if deterministic else 0, {}


def many_rungs(observation, deterministic=False, episode_start=None):
    assert (observation[:, 0] == 1).tolist() == list(episode_start)
    return observation[:, 0].astype(int), {}


many_rungs.batched = True


@pytest.mark.parametrize("policy", [one_rung, many_rungs])
@pytest.mark.parametrize("num_envs", [1, 3])
def test_evaluate_policy_gets_the_return_worked_by_hand(policy, num_envs):
    venv = make_vec_env(Ladder, num_envs)
    result = evaluate_policy(as_sb3_policy(policy), venv, n_eval_episodes=6)
    assert result == (14.0, 0.0)  # 1 x 1 + 2 x 2 + 3 x 3
    if policy is one_rung:
        sampled = evaluate_policy(as_sb3_policy(policy), venv, 2, deterministic=False)
        assert sampled == (0.0, 0.0)


def test_dicts_are_taken_apart_row_by_row():
    seen = []

    def policy(observation, deterministic=False):
        seen.append(observation)
        return [observation["a"], observation["b"][0]], {}

    batch = {"a": np.array([1, 2]), "b": np.array([[3, 0], [4, 0]])}
    actions, state = as_sb3_policy(policy).predict(batch, state="kept")
    assert actions.tolist() == [[1, 3], [2, 4]] and state == "kept"
    assert seen[1]["b"].tolist() == [4, 0]


@pytest.mark.parametrize("answer", ["42", ["4", "2"]])
def test_text_is_refused_with_the_reason(answer):
    def policy(observation, deterministic=False):
        return answer, {}

    with pytest.raises(ConfigTypeError, match="refuse Text spaces"):
        as_sb3_policy(policy).predict(np.zeros((1, 2)))


def test_answers_of_another_shape_are_refused():
    with pytest.raises(ConfigTypeError, match=r"must return \(action, extras\)"):
        as_sb3_policy(lambda observation, deterministic: 0).predict(np.zeros((1, 2)))
    with pytest.raises(ConfigTypeError, match="callable"):
        as_sb3_policy(3)
