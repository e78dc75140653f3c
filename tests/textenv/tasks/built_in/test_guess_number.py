"""A hidden number, found by the hints higher and lower."""

import re

import gymnasium as gym
import pytest

from textenv import tasks


def test_the_range_varies_and_holds_the_number(examples):
    found = examples("guess_number", 300, low=10, high=30)
    for example in found:
        low, high = map(int, re.findall(r"\d+", example["prompt"]))
        assert (low, high) == (example["low"], example["high"])
        assert 10 <= low <= int(example["answer"]) <= high <= 30
    assert {e["low"] for e in found} == set(range(10, 16))  # a quarter of the width, at each end
    assert {e["high"] for e in found} == set(range(25, 31))
    assert {int(e["answer"]) for e in found} >= set(range(15, 26))


@pytest.mark.parametrize("split", ["train", "test"])
def test_halving_finds_every_number_in_time(split):
    env = gym.make("TextGen-v0", task="guess_number", split=split)
    for example_id in range(60):
        env.reset(options={"example_id": example_id})
        low, high = (env.unwrapped.example[end] for end in ("low", "high"))
        for _ in range(5):
            guess = (low + high) // 2
            *_, reward, terminated, truncated, info = env.step(str(guess))
            hint = info["turn"].strip()
            if terminated:
                break
            low, high = (guess + 1, high) if hint == "higher" else (low, guess - 1)
            assert hint in ("higher", "lower") and reward == 0.0 and not truncated
        assert (hint, reward, info["is_correct"]) == ("right", 1.0, True)
        assert str(guess) == env.unwrapped.example["answer"]


@pytest.mark.parametrize("guess", ["", "x", "-3", "+3", "3.0", "1e1", "\u0663", "\u00b2", "9" * 20])
def test_what_is_no_number_is_said_and_costs_a_turn(guess):
    env = gym.make("TextGen-v0", task="guess_number", task_kwargs={"max_turns": 2})
    env.reset(seed=0)
    for last in (False, True):
        _, reward, terminated, truncated, info = env.step(guess)
        assert (reward, terminated, truncated) == (0.0, False, last)
        assert info["turn"] == "\nnot a number\n"
    assert info["is_correct"] is False


def test_spaces_around_a_guess_are_ignored():
    env = gym.make("TextGen-v0", task="guess_number")
    env.reset(seed=0)
    assert env.step(f" {env.unwrapped.example['answer']}\n")[1:4] == (1.0, True, False)


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"high": 9}, "high must be at least low \\+ 9.*1 and 9"),
        ({"low": 5, "high": 3}, "high.*5 to.*3"),
        ({"low": -1}, "low.*-1"),
        ({"max_turns": True}, "max_turns.*True"),
    ],
)
def test_bad_parameters_are_named(kwargs, says):
    with pytest.raises(ValueError, match=says):
        tasks.make("guess_number", **kwargs)
