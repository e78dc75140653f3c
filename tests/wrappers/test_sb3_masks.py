"""Action masks reach agents of Stable-Baselines3, and its evaluation of our policies."""

import warnings

import gymnasium as gym
import numpy as np
import pytest

from tests.wrappers.sb3_agents import agent, choices, make, tensors
from textenv.algos import RolloutRunner
from textenv.errors import DataError
from textenv.wrappers.sb3 import SB3Policy, as_sb3_policy
from textenv.wrappers.sb3_vec_env import SB3VectorEnv

pytest.importorskip("stable_baselines3")
torch = pytest.importorskip("torch")

from stable_baselines3.common.env_util import make_vec_env  # noqa: E402
from stable_baselines3.common.evaluation import evaluate_policy  # noqa: E402
from stable_baselines3.common.vec_env import DummyVecEnv  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("num_envs", [None, 3, "VecEnv"])
def test_masked_actions_are_never_taken(num_envs):
    model = agent("MaskablePPO")
    with torch.no_grad():  # without a mask it would nearly always answer b
        model.policy.action_net.bias[:] = torch.tensor([0.0, 9.0])
    if num_envs == "VecEnv":
        env = SB3VectorEnv(DummyVecEnv([choices] * 3))
    else:
        env = make("choices", num_envs)
    rollout = RolloutRunner(env, SB3Policy(model), max_steps=60).collect()
    seen = set()
    for trajectory in rollout:  # each has one step
        mask = trajectory.reset_info["action_mask"]
        assert trajectory.reset_info["prompt"] == ("x" if mask.all() else "y")
        assert "completion" not in trajectory.reset_info
        seen.add((tuple(map(int, mask)), int(trajectory.actions[0])))
        observations, actions = tensors(trajectory.observations, trajectory.actions)
        with torch.no_grad():
            values, logprobs, _ = model.policy.evaluate_actions(
                observations, actions, torch.as_tensor(mask[None])
            )
        np.testing.assert_allclose(trajectory.logprobs, logprobs, atol=1e-6)
        np.testing.assert_allclose(trajectory.values, values[:, 0], atol=1e-6)
    assert {((1, 1), 1), ((1, 0), 0)} <= seen and ((1, 0), 1) not in seen


class OneOfFive(gym.Env):
    """Ten steps, in each of which one action of five is allowed; counts the others in `wrong`."""

    observation_space = gym.spaces.Box(0, 1, (2,))
    action_space = gym.spaces.Discrete(5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(2, np.float32), {"action_mask": self.action_masks()}

    def action_masks(self):
        return np.arange(5) == self.t * 2 % 5

    def step(self, action):
        self.wrong = getattr(self, "wrong", 0) + (not self.action_masks()[int(action)])
        self.t += 1
        info = {"action_mask": self.action_masks()}
        return np.zeros(2, np.float32), 1.0, self.t == 10, False, info


def trained_by_ppo():
    from textenv.algos import PPOConfig, PPOTrainer

    settings = {"total_timesteps": 64, "n_steps": 64, "batch_size": 32, "n_epochs": 1}
    trainer = PPOTrainer("mlp", env=OneOfFive(), config=PPOConfig(**settings))
    trainer.train()
    return trainer.policy


def saved_and_loaded(tmp_path):
    from textenv.algos import load_policy

    trained_by_ppo().save(tmp_path / "model")
    return load_policy(tmp_path / "model")


@pytest.mark.parametrize("kind", ["ppo", "saved", "MaskablePPO"])
def test_masks_in_evaluations_of_stable_baselines3(kind, tmp_path):
    from sb3_contrib.common.maskable.evaluation import evaluate_policy as evaluate_with_masks

    if kind == "MaskablePPO":
        policy = SB3Policy(agent("MaskablePPO", OneOfFive()))
    else:
        policy = saved_and_loaded(tmp_path) if kind == "saved" else trained_by_ppo()
    env = make_vec_env(OneOfFive, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mean, _ = evaluate_with_masks(as_sb3_policy(policy), env, 6, deterministic=False)
    assert mean == 10 and sum(env.get_attr("wrong")) == 0
    with pytest.warns(UserWarning, match="trained with action masks and is given none"):
        evaluate_policy(as_sb3_policy(policy), env, 2)
    assert sum(env.get_attr("wrong")) > 0


def test_masks_reach_a_policy_of_single_observations():
    def first_allowed(observation, deterministic=False, infos=None):
        return int(np.argmax(infos["action_mask"])), {}

    masks = np.array([[0, 1, 1], [0, 0, 1]])
    actions, _ = as_sb3_policy(first_allowed).predict(np.zeros((2, 4)), action_masks=masks)
    assert actions.tolist() == [1, 2]


def test_infos_without_a_mask_are_an_error():
    policy = SB3Policy(agent("MaskablePPO"))
    with pytest.raises(DataError, match=r"action_mask.*this info has 'task'"):
        policy(np.zeros(8, np.float32), infos={"task": "x"})
    assert policy(np.zeros(8, np.float32))[0] in (0, 1)
