"""The reset option that sets the level of difficulty of one episode."""

import re

import gymnasium as gym
import pytest

from textenv import tasks
from textenv.errors import ConfigError, ConfigTypeError


def test_tasks_without_levels_say_so():
    for env in (
        gym.make("TextGen-v0", task="guess_number"),
        gym.make("TextGen-v0", prompts=["a"], reward_fn="length"),
    ):
        assert env.unwrapped.task.levels is None
        assert env.unwrapped.task.level is None
        with pytest.raises(ConfigError, match="has no levels of difficulty"):
            env.reset(options={"level": 1})


def test_a_reset_at_a_level_draws_the_same_id_and_another_example():
    env = gym.make("TextGen-v0")
    plain, info = env.reset(seed=3)
    prompt, at = env.reset(seed=3, options={"level": 4})
    assert re.fullmatch(r"\d{4}\+\d{4}=", prompt)
    assert (at["example_id"], at["level"]) == (info["example_id"], 4)
    assert prompt == tasks.make("arithmetic", digits=4).example(at["example_id"])["prompt"]
    again, _ = env.reset(options={"level": 4, "example_id": at["example_id"]})
    assert again == prompt
    assert env.reset(seed=3) == (plain, info)  # the level was only for one episode
    assert "level" not in info


def test_what_is_drawn_at_a_level_moves_the_generator_as_without():
    one, two = gym.make("TextGen-v0"), gym.make("TextGen-v0")
    one.reset(seed=5)
    two.reset(seed=5, options={"level": 7})
    assert one.reset() == two.reset()


def test_options_that_cannot_be_are_refused():
    env = gym.make("TextGen-v0")
    with pytest.raises(ConfigError, match="'lever'; known: 'example_id', 'level'"):
        env.reset(options={"lever": 1})
    with pytest.raises(ConfigError, match="from 1 to 12, got 'two'"):
        env.reset(options={"level": "two"})
    with pytest.raises(ConfigTypeError, match="example_id must be an integer, got NoneType"):
        env.reset(options={"example_id": None, "level": 1})
