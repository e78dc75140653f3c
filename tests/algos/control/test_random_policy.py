"""Actions at random."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from gymnasium.vector.utils import batch_space, iterate

from textenv.algos import RolloutRunner
from textenv.algos.control.random_policy import RandomPolicy
from textenv.algos.episodes.trajectory import _equal
from textenv.errors import DataError
from textenv.spaces import UnicodeText

SPACES = [
    Discrete(3, start=2),
    MultiDiscrete([2, 3]),
    MultiBinary(4),
    Box(-2, 2, (3,), np.float32),
    UnicodeText(5),
    Dict({"a": Discrete(2), "b": Tuple([Box(0, 1, ()), Discrete(2)])}),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_one_and_many_draw_the_same_members(space):
    alone, many = RandomPolicy(space, seed=4), RandomPolicy(space, seed=4, num_envs=3)
    batch, extras = many(None)
    assert extras == {}
    assert batch in batch_space(space, 3)
    for row in iterate(batch_space(space, 3), batch):
        action, extras = alone(None, deterministic=True)
        assert action in space and extras == {}
        assert _equal(action, row)


def test_it_is_uniform_and_has_a_seed_of_its_own():
    space = Discrete(4)
    space.seed(1)
    before = space.np_random.bit_generator.state
    policy = RandomPolicy(space, seed=0)
    draws = [int(policy(None)[0]) for _ in range(4000)]
    counts = np.bincount(draws, minlength=4)
    assert (abs(counts - 1000) < 5 * (4000 * 0.25 * 0.75) ** 0.5).all()
    assert space.np_random.bit_generator.state == before
    again, other = RandomPolicy(space, seed=0), RandomPolicy(space, seed=1)
    assert [int(again(None)[0]) for _ in range(50)] == draws[:50]
    assert [int(other(None)[0]) for _ in range(50)] != draws[:50]


def test_masks():
    mask = np.array([0, 1, 0, 1], bool)
    policy = RandomPolicy(Discrete(4), num_envs=3)
    infos = [{"action_mask": mask}, {}, {"action_mask": ~mask}]
    drawn = np.array([policy(None, infos=infos)[0] for _ in range(200)])
    assert [{*column} for column in drawn.T.tolist()] == [{1, 3}, {0, 1, 2, 3}, {0, 2}]
    single = RandomPolicy(Discrete(4))
    assert {int(single(None, infos={"action_mask": mask})[0]) for _ in range(50)} == {1, 3}


@pytest.mark.parametrize(
    "space, mask, allowed",
    [
        (MultiDiscrete([2, 3]), (np.int8([0, 1]), np.int8([1, 0, 1])), {(1, 0), (1, 2)}),
        (MultiDiscrete([2, 3]), [0, 1, 1, 0, 1], {(1, 0), (1, 2)}),
        (MultiDiscrete([2, 2], start=[5, -1]), [[1, 1], [0, 1]], {(5, 0), (6, 0)}),
        (MultiBinary(2), [1, 0, 1, 1], {(0, 0), (0, 1)}),
    ],
)
def test_masks_of_several_choices(space, mask, allowed):
    policy = RandomPolicy(space)
    drawn = [policy(None, infos={"action_mask": mask})[0] for _ in range(60)]
    assert all(action in space for action in drawn)
    assert {*(tuple(action.tolist()) for action in drawn)} == allowed


@pytest.mark.parametrize(
    "space, mask, said",
    [
        (MultiDiscrete([2, 3]), [1, 1, 0, 0, 0], "component 1 it allows none"),
        (MultiDiscrete([2, 3]), ([1, 1], [1, 1]), "5 entries"),
        (Discrete(2), [0, 0], "component 0 it allows none"),
        (Discrete(2), [0.5, 1], "each 0 or 1"),
        (Discrete(2), None, "2 entries"),
        (Box(0, 1, (2,)), [1, 1], r"action_mask is for Discrete.*Box"),
    ],
)
def test_masks_that_do_not_fit(space, mask, said):
    with pytest.raises(DataError, match=said):
        RandomPolicy(space)(None, infos={"action_mask": mask})


def test_in_the_rollout_loop():
    env = gym.make_vec("CartPole-v1", 4, vectorization_mode="sync")
    policy = RandomPolicy(env.single_action_space, num_envs=4)
    rollout = RolloutRunner(env, policy, max_steps=400).collect()
    assert rollout.num_transitions == 400
    assert all(t.values is None and t.logprobs is None for t in rollout)
    ended = [t.total_reward for t in rollout if t.terminated]
    assert 10 < np.mean(ended) < 40  # 22 for CartPole at random


def test_the_fingerprint_is_of_the_space():
    prints = {RandomPolicy(space, seed).fingerprint() for space in SPACES for seed in (0, 1)}
    assert len(prints) == len(SPACES) and {*map(len, prints)} == {64}


def test_num_envs_must_be_one_or_more():
    with pytest.raises(ValueError, match="num_envs must be an integer >= 1, got 0"):
        RandomPolicy(Discrete(2), num_envs=0)
