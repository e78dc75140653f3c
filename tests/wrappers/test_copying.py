"""Copies of what is recorded."""

import threading
from collections import OrderedDict, deque

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import GraphInstance

from textenv.wrappers.copying import OwnLastStep, copied


def change(value):
    """Change everything in a value that can be changed."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        value[...] = 0
    elif isinstance(value, dict):
        for item in value.values():
            change(item)
        value["more"] = 1
    elif isinstance(value, (list, tuple, deque, np.ndarray)):
        for item in value:
            change(item)
        if isinstance(value, (list, deque)):
            value.append(1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: np.arange(6.0).reshape(2, 3).T,
        lambda: np.array([[1], [2]], object),
        lambda: {"a": [np.ones(2), (np.ones(1), {"b": [3]})], 4: "text"},
        lambda: OrderedDict(a=np.ones(2)),
        lambda: deque([np.ones(2), [1]]),
        lambda: GraphInstance(np.ones((2, 1)), None, None),
        lambda: (np.float32(2), 1, True, None, "text", b"bytes"),
    ],
)
def test_a_copy_stays_as_it_was(make):
    original = make()
    copy, before = copied(original), repr(original)
    assert type(copy) is type(original) and repr(copy) == before
    change(original)
    assert repr(copy) == before == repr(make())


def test_what_cannot_be_copied_stays():
    lock = threading.Lock()
    assert copied({"lock": lock, "n": [1]}) == {"lock": lock, "n": [1]}


def test_the_wrapper_is_no_part_of_the_spec_and_is_there_once():
    env = gym.make("CartPole-v1")
    (one,) = OwnLastStep.around([env])
    assert OwnLastStep.around([one]) == [one]
    assert one.spec == env.spec and one.unwrapped is env.unwrapped
