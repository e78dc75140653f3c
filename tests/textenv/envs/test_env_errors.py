"""The errors of the text environment: what they name, and that they change nothing."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import InvalidAction, ResetNeeded

from textenv import TextGenerationEnv
from textenv.errors import TextEnvError


def ones(prompt, completion, example):
    return 1.0


def test_step_needs_a_reset_before_and_after_an_episode():
    for env in (gym.make("TextGen-v0"), TextGenerationEnv()):
        with pytest.raises(ResetNeeded, match="reset"):
            env.step("1")
        env.reset(seed=0)
        env.step("1")
        with pytest.raises(ResetNeeded, match="reset"):
            env.step("1")
        env.reset()
        assert env.step("1")[2]


@pytest.mark.parametrize(
    ("action", "says"),
    [
        (None, "NoneType"),
        (7, "int"),
        (b"7", "bytes"),
        (["7"], "list"),
        ("\ud800", "surrogate"),
        ("a" * (2**20 + 1), "1048577"),
    ],
)
def test_an_action_outside_the_space_is_refused_and_costs_nothing(action, says):
    env = TextGenerationEnv()
    env.reset(options={"example_id": 0})
    with pytest.raises(InvalidAction, match=says) as caught:
        env.step(action)
    assert len(str(caught.value)) < 200
    assert env.step(env.task.oracle(env.example))[1] == 1.0


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"id": 1}, ValueError, "'id'.*example_id"),
        ({"example_id": 0, "seed": 1}, ValueError, "seed"),
        ({"example_id": -1}, ValueError, "-1"),
        ({"example_id": 2}, ValueError, "0 to 1.*got 2"),
        ({"example_id": "1"}, TypeError, "str"),
        ({"example_id": 1.0}, TypeError, "float"),
        ({"example_id": True}, TypeError, "bool"),
        ({"example_id": None}, TypeError, "NoneType"),
    ],
)
def test_bad_options_name_what_came(options, error, says):
    env = TextGenerationEnv(["a", "b"], ones)
    with pytest.raises(error, match=says) as caught:
        env.reset(options=options)
    assert isinstance(caught.value, TextEnvError)


def test_numpy_ids_and_no_options_are_fine():
    env = TextGenerationEnv(["a", "b"], ones)
    observation, info = env.reset(options={"example_id": np.int64(1)})
    assert (observation, type(info["example_id"])) == ("b", int)
    assert env.reset(seed=0, options={}) == env.reset(seed=0, options=None)


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"task": "countdwn"}, "countdwn.*'countdown'"),
        ({"task": "sort", "split": "dev"}, "train, test.*'dev'"),
        ({"task_kwargs": {"digit": 3}}, "digit"),
        ({"task_kwargs": {"digits": 0}}, "digits.*1 to 12.*0"),
        ({"max_tokens": 0}, "max_tokens.*0"),
        ({"max_tokens": 2.5}, "max_tokens.*2.5"),
        ({"max_tokens": True}, "max_tokens.*True"),
        ({"prompts": ["a"]}, "reward_fn"),
        ({"prompts": ["a"], "reward_fn": "correct"}, "correct"),
        ({"prompts": ["a"], "reward_fn": "exact"}, "unknown reward function 'exact'.*exact_match"),
        ({"prompts": ["a"], "reward_fn": ones, "task": "sort"}, "prompts and task"),
        ({"prompts": ["a"], "reward_fn": ones, "split": "dev"}, "dev"),
        ({"prompts": ["a"], "reward_fn": ones, "task_kwargs": {"digits": 3}}, "task_kwargs"),
        ({"prompts": ["a"], "reward_fn": ones, "examples": [{}, {}]}, "2 examples, 1 prompts"),
        ({"prompts": [], "reward_fn": ones}, "no rows"),
        ({"prompts": ["a", 3], "reward_fn": ones}, "row 1.*prompt.*int"),
        ({"prompts": ["a", "\ud800"], "reward_fn": ones}, "row 1.*surrogate"),
        ({"prompts": "abc", "reward_fn": ones}, "list.*str"),
        ({"prompts": ["a"], "reward_fn": "exact_match"}, "row 0.*'answer'"),
        ({"examples": [{}]}, "examples.*prompts"),
        ({"render_mode": "rgb_array"}, "render_mode.*rgb_array"),
        ({"reward_weights": {"correct": "2"}}, "correct.*'2'"),
        ({"reward_weights": {"correct": float("nan")}}, "correct.*nan"),
    ],
)
def test_bad_settings_are_one_line_that_names_them(kwargs, says):
    with pytest.raises((ValueError, TypeError), match=says) as caught:
        TextGenerationEnv(**kwargs)
    assert isinstance(caught.value, TextEnvError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"tokenizer": "tiny-lm"}, "tokenizer"),
        ({"tokenizer": 5}, "tokenizer"),
        ({"reward_weights": [1.0]}, "reward_weights"),
        ({"task_kwargs": {"split": "test"}}, "split"),
        ({"task_kwargs": [3]}, "task_kwargs"),
        ({"task": ["sort"]}, "task"),
        ({"dataset": 5, "reward_fn": ones}, "dataset"),
        ({"prompts": ["a", "b"], "reward_fn": ones, "examples": [{}, 1]}, "row 1|example 1"),
        ({"prompts": ["a"], "reward_fn": ones, "examples": {"answer": "x"}}, "examples"),
    ],
)
def test_settings_of_a_wrong_type_are_named_when_the_environment_is_made(kwargs, says):
    with pytest.raises(TextEnvError, match=says):
        TextGenerationEnv(**kwargs)


@pytest.mark.parametrize(
    "options", ["ab", [("example_id", 1)], {"example_id": np.array([1, 2])}, {"x": 1, 2: 3}]
)
def test_options_of_a_wrong_type_are_named(options):
    with pytest.raises(TextEnvError):
        TextGenerationEnv().reset(options=options)


def test_a_prompt_longer_than_the_space_names_its_example():
    env = TextGenerationEnv(["a", "a" * (2**20 + 1)], ones)
    with pytest.raises(ValueError, match=r"example 1 .* 1048577") as caught:
        env.reset(options={"example_id": 1})
    assert len(str(caught.value)) < 200


def test_a_failing_reward_function_names_itself_and_the_episode_goes_on():
    calls = []

    def flaky(prompt, completion, example):
        calls.append(completion)
        if len(calls) == 1:
            raise ZeroDivisionError("boom")
        return 1.0

    env = TextGenerationEnv(["ask"], flaky)
    env.reset()
    with pytest.raises(ValueError, match=r"flaky.*ZeroDivisionError: boom.*'ask'"):
        env.step("x")
    assert env.step("x")[1] == 1.0
