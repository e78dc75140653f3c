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


class Steps(gym.Env):
    """Episodes of n steps with a reward of 1 each; it shows ``t % m`` after t steps.

    With ``own`` it gives out one array, one dict, one list and one mask of its own at every step,
    changes them in place, and changes the action that it is given. With ``masked``, infos have an
    action mask that allows one of three actions, and nothing when the game is over.
    """

    action_space = spaces.MultiBinary(2)

    def __init__(self, n, m=1000, own=False, masked=False):
        self.n, self.m, self.own, self.masked = n, m, own, masked
        self.observation_space = spaces.Box(-1, m, (1,), np.float64)
        if masked:
            self.action_space = spaces.Discrete(3)
        self.x, self.list, self.nested = np.zeros(1), [0], {"t": [0]}
        self.mask = np.zeros(3, np.int8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._results()

    def step(self, action):
        if self.masked:
            assert action == self.t % 3, f"action {action} at step {self.t}"
        elif self.own:
            action[:] = 0
        self.t += 1
        observation, info = self._results()
        return observation, 1.0, self.t == self.n, False, info

    def _results(self):
        if not self.own:
            self.x, self.list, self.nested = np.zeros(1), [0], {"t": [0]}
            self.mask = np.zeros(3, np.int8)
        self.x[:] = self.t % self.m
        self.list[0] = self.nested["t"][0] = self.t
        self.mask[:] = 0
        self.mask[self.t % 3] = self.t < self.n
        info = {"list": self.list, "nested": self.nested}
        return self.x, info | ({"action_mask": self.mask} if self.masked else {})


def quick(**settings):
    settings = {"n_steps": 256, "batch_size": 64, "n_epochs": 4, "hidden": (16,)} | settings
    return PPOConfig(**settings)
