"""Numbers that are typed: the environment gets exactly them, in its space's type and shape."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from tests.algos.cli.playing.shared import play
from textenv.algos.cli.playing.typed import Refused, TypedActions
from textenv.errors import ConfigError, DataError

WIDE = Box(np.array([-1, 0, -np.inf], np.float32), np.array([0.1, np.inf, np.inf], np.float32))


class Recorder(gym.Env):
    """Keeps the actions that it gets; an episode is one step."""

    observation_space = Discrete(1)

    def __init__(self, space, got):
        self.action_space, self._got = space, got

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, {}

    def step(self, action):
        self._got.append(action)
        return 0, 1.0, True, False, {}


@pytest.mark.parametrize(
    ("space", "typed", "expected"),
    [
        (MultiDiscrete([3, 5, 2]), "1 0 1", np.int64([1, 0, 1])),
        (MultiDiscrete([3, 5], start=[10, -2], dtype=np.int32), "12 -2", np.int32([12, -2])),
        (MultiDiscrete([[2, 3], [4, 5]]), "1 2 3 4", np.int64([[1, 2], [3, 4]])),
        (MultiBinary(3), " 1  0 1 ", np.int8([1, 0, 1])),
        (MultiBinary([2, 2]), "1 0 0 1", np.int8([[1, 0], [0, 1]])),
        (Box(-1, 1, (2,)), "0.5 -1", np.float32([0.5, -1])),
        (Box(-1, 1, (2, 2), np.float64), "0.1 .2 -3e-1 1.", np.float64([[0.1, 0.2], [-0.3, 1]])),
        (Box(-1, 1, ()), "+0.25", np.float32(0.25).reshape(())),
        (Box(0, 255, (2,), np.uint8), "0 255", np.uint8([0, 255])),
        (Box(0, 1, (2,), bool), "0 1", np.bool_([False, True])),
        (WIDE, "0.1 1e6 -1e6", np.float32([0.1, 1e6, -1e6])),  # 0.1 is above 0.1 in float32
        (Discrete(200, start=-3), "-3", np.int64(-3)),
        (Discrete(20, start=5, dtype=np.int32), "24", np.int32(24)),
    ],
)
def test_the_environment_gets_what_was_typed(monkeypatch, capsys, space, typed, expected):
    got = []
    gym.register("Recorder-v0", lambda: Recorder(space, got))
    try:
        printed = play(monkeypatch, capsys, [typed], "--env", "Recorder-v0", "--episodes", "1")
    finally:
        del gym.registry["Recorder-v0"]
    [action] = got
    assert space.contains(action)
    assert action.dtype == expected.dtype and action.shape == expected.shape
    assert np.array_equal(action, expected)
    assert "terminated after 1 step, total reward 1\n" in printed


@pytest.mark.parametrize(
    ("space", "typed", "says"),
    [
        (MultiDiscrete([3, 5]), "1", "expected 2 numbers with spaces between them, got 1"),
        (MultiDiscrete([3, 5]), "1 0 2", "expected 2 numbers with spaces between them, got 3"),
        (MultiDiscrete([3, 5]), "", "expected 2 numbers with spaces between them, got 0"),
        (MultiDiscrete([3, 5]), "1 5", "number 2: expected a whole number from 0 to 4, got 5"),
        (
            MultiDiscrete([3, 5]),
            "0.5 1",
            "number 1: expected a whole number from 0 to 2, got '0.5'",
        ),
        (MultiDiscrete([2], start=[4]), "3", "expected a whole number from 4 to 5, got 3"),
        (MultiBinary(2), "1 2", "number 2: expected a whole number from 0 to 1, got 2"),
        (MultiBinary(2), "1 -1", "number 2: expected a whole number from 0 to 1, got -1"),
        (Box(-1, 1, (2,)), "0 1.5", "number 2: expected a number from -1 to 1, got 1.5"),
        (Box(-1, 1, (2,)), "nan 0", "number 1: expected a number from -1 to 1, got 'nan'"),
        (Box(-1, 1, (2,)), "0,5 1", "number 1: expected a number from -1 to 1, got '0,5'"),
        (Box(-1, 1, (2,)), "0 ²", "number 2: expected a number from -1 to 1, got '²'"),
        (Box(0, 255, (1,), np.uint8), "1.0", "expected a whole number from 0 to 255, got '1.0'"),
        (Box(0, 255, (1,), np.uint8), "9" * 5000, "whole number from 0 to 255, got '99"),
        (WIDE, "0.11 0 0", "number 1: expected a number from -1 to 0.1, got 0.11"),
        (WIDE, "0 -1 0", "number 2: expected a number from 0 up, got -1"),
        (WIDE, "0 0 inf", "number 3: expected a number of any size, got 'inf'"),
        (WIDE, "0 0 1e39", "any size, got 1e39, which float32 does not hold"),
        (Discrete(20), "1 2", "expected an action from 0 to 19, got '1 2'"),
    ],
)
def test_what_is_no_action_is_asked_again(space, typed, says):
    with pytest.raises(Refused) as refused:
        TypedActions(space, "x").read(typed)
    assert says in str(refused.value) and len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("space", "explained"),
    [
        (Discrete(10), "0 to 9"),
        (Discrete(11), "0 to 10, then Enter"),
        (Box(-2, 2, (1,)), "a number from -2 to 2, then Enter"),
        (Box(-np.inf, np.inf, (1,)), "a number of any size, then Enter"),
        (
            MultiBinary([2, 3]),
            "6 whole numbers from 0 to 1 with spaces between them (shape (2, 3), row by row), "
            "then Enter",
        ),
        (
            MultiDiscrete([3, 5, 5]),
            "3 whole numbers with spaces between them, then Enter: number 1 from 0 to 2, "
            "numbers 2 to 3 from 0 to 4",
        ),
        (
            WIDE,
            "3 numbers with spaces between them, then Enter: number 1 from -1 to 0.1, "
            "number 2 from 0 up, number 3 of any size",
        ),
    ],
)
def test_the_bounds_and_the_count_are_told(space, explained):
    assert TypedActions(space, "x").explained == explained


def test_many_bounds_are_cut():
    high = np.arange(1, 101, dtype=np.float32)
    explained = TypedActions(Box(np.zeros_like(high), high), "x").explained
    assert explained.endswith("number 40 from 0 to 40 and 60 more ranges")


@pytest.mark.parametrize("mask", [[1, 0, 1, 0, 1], ([1, 0, 1], [0, 1])])
def test_a_mask_is_of_each_number(mask):
    actions = TypedActions(MultiDiscrete([3, 2], start=[5, 0]), "x")
    assert actions.read("7 1", mask).tolist() == [7, 1]
    for typed, says in (
        ("6 1", "number 1: 6 is not allowed here; allowed: 5, 7"),
        ("5 0", "number 2: 0 is not allowed here; allowed: 1"),
    ):
        with pytest.raises(Refused, match=says):
            actions.read(typed, mask)
    with pytest.raises(DataError, match="must have 5 entries"):
        actions.read("7 1", [1, 1])


def test_other_spaces_are_refused():
    with pytest.raises(ConfigError, match="x has Sequence"):
        TypedActions(gym.spaces.Sequence(Discrete(2)), "x")
