"""Agents of Stable-Baselines3 without training, for the tests that drive them."""

import gymnasium as gym
import numpy as np
import pytest

from textenv.algos import RolloutRunner
from textenv.wrappers import ActionMask, ChoiceAction, HashedBagOfWords
from textenv.wrappers.sb3 import SB3Policy

sb3 = pytest.importorskip("stable_baselines3")
contrib = pytest.importorskip("sb3_contrib")
torch = pytest.importorskip("torch")

CARTPOLE, PENDULUM = "CartPole-v1", "Pendulum-v1"
CRITICS = {"PPO": CARTPOLE, "A2C": PENDULUM, "TRPO": CARTPOLE}
OTHERS = {"DQN": CARTPOLE, "QRDQN": CARTPOLE, "TD3": PENDULUM, "DDPG": PENDULUM}
ACTORS = {"SAC": PENDULUM, "TQC": PENDULUM}
AGENTS = CRITICS | OTHERS | ACTORS | {"RecurrentPPO": CARTPOLE, "MaskablePPO": "choices"}


def choices():
    """Answers a and b are valid, or c alone."""
    examples = [{"answer": "b", "choices": ["a", "b"]}, {"answer": "c", "choices": ["c"]}]
    env = gym.make("TextGen-v0", prompts=["x", "y"], examples=examples, reward_fn="exact_match")
    return ActionMask(ChoiceAction(HashedBagOfWords(env, size=8), "choices"))


def make(env, num_envs=None):
    if num_envs is None:
        return choices() if env == "choices" else gym.make(env)
    if env == "choices":
        return gym.vector.SyncVectorEnv([choices] * num_envs)
    return gym.make_vec(env, num_envs)


def agent(name, env=None, policy="MlpPolicy", **settings):
    algorithm = getattr(sb3, name, None) or getattr(contrib, name)
    kwargs = {"net_arch": [8]}
    if name == "RecurrentPPO":
        policy, kwargs["lstm_hidden_size"] = "MlpLstmPolicy", 6
    env = env or make(AGENTS[name])
    settings = {"policy_kwargs": kwargs, "seed": 0, "device": "cpu"} | settings
    return algorithm(policy, env, **settings)


def drawn(trajectory):
    return np.stack(trajectory.unclipped_actions or trajectory.actions)


def tensors(*arrays):
    return [torch.as_tensor(np.asarray(a)) for a in arrays]


def collect(name, num_envs=None, max_steps=60):
    model = agent(name)
    runner = RolloutRunner(make(AGENTS[name], num_envs), SB3Policy(model), max_steps=max_steps)
    return model, runner.collect()
