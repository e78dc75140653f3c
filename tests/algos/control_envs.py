"""Environments of control whose best policy is known."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from textenv.algos.ppo_config import PPOConfig


class Bandit(gym.Env):
    """One step an episode; the reward is a function of the action and the generator."""

    observation_space = spaces.Box(-1, 1, (2,))

    def __init__(self, action_space=None, reward=None, observe=None, mask=None):
        self.action_space = spaces.Discrete(2) if action_space is None else action_space
        self.reward = reward or (lambda action, observation, rng: float(action == 1))
        self.observe = observe or (lambda rng: rng.uniform(-1, 1, 2))
        self.mask = mask

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = np.asarray(self.observe(self.np_random), np.float32)
        return self.state, {} if self.mask is None else {"action_mask": self.mask}

    def step(self, action):
        reward = float(self.reward(action, self.state, self.np_random))
        return self.state, reward, True, False, {}


def choices():
    """Two at once, the second of which is learnt first."""
    space = spaces.MultiDiscrete([3, 2])
    return Bandit(space, lambda action, observation, rng: (action[0] == 2) + (action[1] == 0))


class Endless(gym.Env):
    """A reward of 1 at every step, cut after five."""

    observation_space = spaces.Box(-1, 1, (1,))
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(1, np.float32), 1.0, False, self.steps == 5, {}


def quick(**settings):
    settings = {"n_steps": 256, "batch_size": 64, "n_epochs": 4, "hidden": (16,)} | settings
    return PPOConfig(**settings)
