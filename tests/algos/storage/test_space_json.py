"""Spaces as JSON and back."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from textenv.algos.storage.space_json import describe_space, make_space
from textenv.spaces import UnicodeText

F32 = np.finfo(np.float32)
SPACES = [
    spaces.Box(0, 255, (4, 3, 2), np.uint8),
    spaces.Box(-1, 1, (), np.float64),
    spaces.Box(np.float32([-np.inf, -0.1, F32.min]), np.float32([np.inf, 1 / 3, F32.max])),
    spaces.Box(-np.inf, np.inf, (2, 0), np.float32),
    spaces.Box(-np.inf, np.array([[1.0], [np.inf]]), (2, 1), np.float64),
    spaces.Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (2,), np.int64),
    spaces.Box(
        np.array([0, 2**63], np.uint64), np.array([1, 2**64 - 1], np.uint64), dtype=np.uint64
    ),
    spaces.Box(-2.5, 2.5, (3,), np.float16),
    spaces.Discrete(1),
    spaces.Discrete(7, start=-3),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiDiscrete(np.array([[2, 3], [4, 5]]), np.int32, start=np.array([[0, 1], [-2, 3]])),
    spaces.MultiBinary(5),
    spaces.MultiBinary([2, 3]),
    spaces.Text(6),
    spaces.Text(9, min_length=2, charset='é🙂"\\\n'),
    UnicodeText(300, min_length=1),
    spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Tuple([UnicodeText(3), spaces.Discrete(3)])}),
    spaces.Dict([("z", spaces.Discrete(2)), ("type", spaces.Dict({}))]),
    spaces.Tuple([]),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_a_space_comes_back(space):
    description = describe_space(space)
    text = json.dumps(description, allow_nan=False)
    made = make_space(json.loads(text))
    assert made == space and type(made) is type(space) and made.shape == space.shape
    assert made.dtype == space.dtype
    if isinstance(space, spaces.Box):  # == allows for rounding
        assert made.low.tobytes() == space.low.tobytes()
        assert made.high.tobytes() == space.high.tobytes()
    if isinstance(space, spaces.Dict):
        assert list(made.spaces) == list(space.spaces)
    assert describe_space(made) == description
    if made.dtype != np.uint64:  # Gymnasium cannot sample these bounds
        made.seed(0)
        assert space.contains(made.sample())


@pytest.mark.parametrize(
    "name", ["CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCarContinuous-v0", "Blackjack-v1"]
)
def test_spaces_of_environments(name):
    env = gym.make(name)
    for space in (env.observation_space, env.action_space):
        assert make_space(json.loads(json.dumps(describe_space(space)))) == space


def test_bounds_are_plain_to_read():
    env = gym.make("CartPole-v1")
    assert describe_space(env.observation_space) == {
        "type": "Box",
        "dtype": "float32",
        "shape": [4],
        "low": [-4.8, "-inf", -0.41887903, "-inf"],
        "high": [4.8, "inf", 0.41887903, "inf"],
    }
    assert describe_space(spaces.Box(0, 255, (84, 84), np.uint8)) == {
        "type": "Box",
        "dtype": "uint8",
        "shape": [84, 84],
        "low": 0,
        "high": 255,
    }


class OwnBox(spaces.Box):
    """Not what its parent is."""


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (spaces.Sequence(spaces.Discrete(2)), "a space of Sequence cannot"),
        (spaces.Graph(spaces.Discrete(2), None), "a space of Graph cannot"),
        (spaces.OneOf([spaces.Discrete(2)]), "a space of OneOf cannot"),
        (OwnBox(0, 1), "a space of OwnBox cannot"),
        (spaces.Tuple([spaces.Sequence(spaces.Discrete(2))]), "a space of Sequence cannot"),
        (spaces.Dict([(1, spaces.Discrete(2))]), "key 1, which is not text"),
    ],
)
def test_other_spaces_are_named(space, words):
    with pytest.raises(ValueError, match=words):
        describe_space(space)


BOX = {"type": "Box", "dtype": "float32", "shape": [2], "low": 0, "high": 1}


@pytest.mark.parametrize(
    ("description", "words"),
    [
        (None, "not the description of a space: None"),
        ([1], "not the description of a space"),
        ({"type": ["Box"]}, "not the description of a space"),
        ({"type": "Sphere"}, "not the description of a space: .*Sphere"),
        ({"type": "Box"}, "not the description of a Box"),
        ({**BOX, "low": [0, 1, 2]}, "not the description of a Box"),
        ({**BOX, "low": "__import__('os')"}, "not the description of a Box"),
        ({**BOX, "dtype": "no"}, "not the description of a Box"),
        ({"type": "Discrete", "n": 0, "start": 0, "dtype": "int64"}, "description of a Discrete"),
        ({"type": "Tuple", "spaces": [{"type": "Box"}]}, "description of a Box"),
        ({"type": "Dict", "spaces": [1]}, "description of a Dict"),
        ({**BOX, "shape": [10**10]}, "more than 67108864 numbers"),
        ({"type": "MultiBinary", "shape": [10**6, 10**6]}, "more than 67108864 numbers"),
        ({**BOX, "shape": "ab"}, "not the description of a Box"),
        ({"type": "Discrete", "n": 10**400, "start": 0, "dtype": "int64"}, "of a Discrete"),
    ],
)
def test_what_is_no_description_is_refused(description, words):
    with pytest.raises(ValueError, match=words):
        make_space(description)
