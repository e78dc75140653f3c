"""Answers by their index."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import InvalidAction

from textenv.wrappers import ChoiceAction


def start(env, example_id):
    return env.reset(options={"example_id": example_id})


@pytest.mark.parametrize("kind", [int, np.int64, np.array])
def test_an_index_stands_for_its_answer(kind, letters):
    env = ChoiceAction(letters(), ("a", "b", "c"))
    assert env.action_space.n == 3
    for index, reward in ((0, 0.0), (1, 1.0)):
        _, info = start(env, 0)
        assert "action_mask" not in info
        step = env.step(kind(index))
        assert (step[1], step[4]["completion"]) == (reward, "abc"[index])


def test_each_example_has_its_own_answers(letters, letter_examples):
    env = ChoiceAction(letters(), "choices")
    assert env.action_space.n == 4  # the longest
    for i, example in enumerate(letter_examples):
        _, info = start(env, i)
        assert info["choices"] == example["choices"]
        count = len(example["choices"])
        assert info["action_mask"].tolist() == [1] * count + [0] * (4 - count)
        assert info["action_mask"].dtype == np.int8  # the type that Discrete.sample(mask) needs
        assert env.action_space.sample(info["action_mask"]) < count
        step = env.step(example["choices"].index(example["answer"]))
        assert step[1] == 1.0
        assert np.array_equal(step[4]["action_mask"], info["action_mask"])
        start(env, i)
        if count < 4:
            with pytest.raises(InvalidAction, match=f"0 to {count - 1}.*got {count}"):
                env.step(count)


@pytest.mark.parametrize("action", [3, -1, 0.0, "a", None, [0]])
def test_an_index_of_nothing_is_refused(action, letters):
    env = ChoiceAction(letters(), ["a", "b", "c"])
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match="0 to 2"):
        env.step(action)


def test_a_generated_task_needs_to_be_told_how_many():
    env = gym.make("TextGen-v0")
    with pytest.raises(ValueError, match="give n"):
        ChoiceAction(env, "choices")
    with pytest.raises(ValueError, match=r"has no 'choices'.*it has 'prompt', 'answer'"):
        ChoiceAction(env, "choices", n=2).reset()


def test_more_answers_than_n_are_an_error(letters):
    env = ChoiceAction(letters(), "choices", n=3)
    start(env, 0)
    with pytest.raises(ValueError, match="4 choices, but n is 3"):
        start(env, 1)


@pytest.mark.parametrize(
    ("choices", "match"),
    [
        ([], "at least one"),
        (["a", 3], "text, got 3"),
        (3, "list of text, got int"),
        ("choices", "example 1"),
    ],
)
def test_bad_answers_are_named(choices, match, letters, letter_examples):
    examples = [letter_examples[0], {"answer": "x", "choices": "xy"}]
    with pytest.raises((TypeError, ValueError), match=match):
        ChoiceAction(letters(examples), choices)


def test_n_goes_with_a_key(letters):
    with pytest.raises(ValueError, match="n=2"):
        ChoiceAction(letters(), ["a", "b"], n=2)
