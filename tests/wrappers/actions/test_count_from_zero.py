"""Choices that count from elsewhere, for agents that count from 0."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from gymnasium.utils.env_checker import check_env

from textenv.wrappers import CountFromZero
from textenv.wrappers.actions.count_from_zero import from_zero, shift

SPACES = [
    (Discrete(3, start=5), Discrete(3)),
    (Discrete(3, start=-1), Discrete(3)),
    (MultiDiscrete([2, 3], start=[4, -2]), MultiDiscrete([2, 3])),
    (
        Dict({"a": Discrete(2, start=1), "b": Box(0, 1, (2,))}),
        Dict(a=Discrete(2), b=Box(0, 1, (2,))),
    ),
]


class Echo(gym.Env):
    """Observes its last action; one step an episode."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        assert action in self.action_space
        observation = action if self.observation_space == self.action_space else None
        return observation, 1.0, True, False, {}


@pytest.mark.parametrize("space, counted", SPACES, ids=str)
def test_values_and_batches_there_and_back(space, counted):
    assert from_zero(space) == counted
    space.seed(0)
    batch = gym.vector.utils.batch_space(space, 5)
    batch.seed(0)
    for kind, zero, value in (
        (space, counted, space.sample()),
        (space, gym.vector.utils.batch_space(counted, 5), batch.sample()),
    ):
        seen = shift(kind, value, -1)
        assert seen in zero
        again = shift(kind, seen)
        flat = gym.spaces.flatten
        assert again in (batch if zero is not counted else space)
        if zero is counted:
            assert np.array_equal(flat(space, again), flat(space, value))


@pytest.mark.parametrize("space", [Discrete(4), MultiDiscrete([2, 2]), Box(0, 1, (2,))], ids=str)
def test_what_counts_from_zero_stays_itself(space):
    assert from_zero(space) is space and from_zero(Dict(a=space))["a"] is space
    assert from_zero(both := Dict(a=space, b=space)) is both


@pytest.mark.parametrize("space, counted", SPACES[:3], ids=str)
def test_in_an_environment(space, counted):
    env = CountFromZero(Echo(space, space))
    assert env.observation_space == env.action_space == counted
    assert env.reset(seed=0)[0] in counted
    for _ in range(20):
        action = counted.sample()
        assert np.array_equal(env.step(action)[0], action)


def test_gymnasium_has_no_complaints():
    env = gym.make("FrozenLake-v1")
    check_env(CountFromZero(env), skip_render_check=True, skip_close_check=True)
