"""A finite number of prompts: examples of a task, or seeds that come again."""

from __future__ import annotations

import gymnasium as gym
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from textenv.algos import Trajectory
from textenv.algos.strategies import Start
from textenv.algos.strategies.prompts.recurring import Recurring, example_ids, pass_rate
from textenv.errors import ConfigError
from textenv.wrappers import DictStep


class Some(Recurring):
    name = "some"


def endless():
    return gym.make("textenv:TextGen-v0", task="arithmetic")


def test_examples_of_a_finite_task_come_as_they_are_proposed(prepared, epochs):
    part, propose = prepared(Some(), 10), epochs(10)
    starts = part._next(propose, 7)
    assert [part._key(start) for start in starts] == [s.options["example_id"] for s in starts]
    assert sum(propose.turns.values()) == 7
    start = part._start(4)
    assert start.options == {"example_id": 4} and part._key(start) == 4
    assert part._key(Trajectory(seed=9, reset_info={"example_id": 4})) == 4


def test_seeds_of_an_endless_task_come_in_shuffled_epochs(prepared):
    part = prepared(Some(num_seeds=5), env=endless())
    drawn = [part._key(s) for s in part._next(None, 3) + part._next(None, 12)]
    epochs = [drawn[i : i + 5] for i in (0, 5, 10)]
    assert all(sorted(epoch) == sorted(part._seeds) for epoch in epochs)
    assert len(set(part._seeds)) == 5 and len(set(map(tuple, epochs))) > 1
    assert part._start(7) == Start(0, 7, None)
    assert part._key(Trajectory(seed=7, reset_info={"example_id": 4})) == 7


def test_the_state_has_what_is_still_to_come(prepared):
    part = prepared(Some(num_seeds=5), env=endless())
    part._next(None, 2)
    part.skipped = 3
    state = part.state()
    expected = [part._key(s) for s in part._next(None, 11)]
    other = prepared(Some(num_seeds=5), env=endless(), seed=1)
    other.load_state(state)
    assert [other._key(s) for s in other._next(None, 11)] == expected and other.skipped == 3


def test_ids_that_a_reset_can_name():
    env = gym.make("textenv:TextGen-v0", prompts=["a", "b", "c"], reward_fn="length")
    assert example_ids(DictStep(env)) == env.unwrapped.task.ids == [0, 1, 2]
    assert example_ids(DictStep(endless())) is None
    vector = SyncVectorEnv(
        [lambda: gym.make("textenv:TextGen-v0", prompts=["a"], reward_fn="length")] * 2,
        autoreset_mode=AutoresetMode.DISABLED,
    )
    assert example_ids(DictStep(vector)) is None  # its options go to all lanes alike
    assert example_ids(gym.make("CartPole-v1")) is None


def test_the_mean_outcome_of_what_was_scored(group):
    assert pass_rate(group(0, [1, 0, 0, 1, 1])) == pytest.approx(0.6)
    unscored = Trajectory(rewards=[float("nan")], infos=[{}], actions=[""])
    assert pass_rate([*group(0, [1]), unscored]) == 1
    assert pass_rate([unscored]) is None


def test_no_seeds_are_none():
    with pytest.raises(ConfigError, match="num_seeds"):
        Some(num_seeds=0)
