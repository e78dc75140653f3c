"""Masks of valid actions."""

import gymnasium as gym
import pytest
from gymnasium.error import InvalidAction, ResetNeeded

from textenv.errors import DataError
from textenv.wrappers import ActionMask, ChoiceAction


def start(env, example_id):
    return env.reset(options={"example_id": example_id})


def test_masks_as_sb3_contrib_asks_for_them(letters):
    env = ActionMask(ChoiceAction(letters(), "choices"))
    with pytest.raises(ResetNeeded):
        env.action_masks()
    start(env, 0)
    masks = env.action_masks()
    assert (masks.dtype, masks.tolist()) == (bool, [True, True, False, False])
    masks[:] = True  # a copy that belongs to the caller
    assert env.action_masks().tolist() == [True, True, False, False]
    limited = gym.wrappers.TimeLimit(env, 5)
    assert limited.get_wrapper_attr("action_masks")().tolist() == [True, True, False, False]
    start(env, 2)
    assert env.action_masks().tolist() == [True, False, False, False]


def test_masked_actions_are_refused(letters):
    env = ActionMask(ChoiceAction(letters(), "choices"))
    start(env, 0)
    with pytest.raises(InvalidAction, match="action 3 is masked; 2 of 4 are valid: 0, 1"):
        env.step(3)
    assert env.step(1)[1] == 1.0  # the episode goes on


def test_masked_actions_are_replaced_by_valid_ones(letters):
    env = ActionMask(ChoiceAction(letters(), "choices"), on_invalid="random")
    taken = []
    for seed in range(40):
        env.reset(seed=seed, options={"example_id": 0})
        taken.append(env.step(3)[4])
        env.reset(seed=seed, options={"example_id": 0})
        assert env.step(3)[4]["completion"] == taken[-1]["completion"]  # the seed decides
    assert {info["completion"] for info in taken} == {"a", "b"}
    assert all(info["invalid_action"] for info in taken)
    start(env, 0)
    assert env.step(1)[4]["invalid_action"] is False


def test_replacing_leaves_the_order_of_examples_alone(letters):
    plain, masked = letters(), ActionMask(ChoiceAction(letters(), "choices"), "random")
    ids = [[env.reset(seed=4)[1]["example_id"]] for env in (plain, masked)]
    for _ in range(20):
        masked.step(3)
        for env, seen in zip((plain, masked), ids):
            seen.append(env.reset()[1]["example_id"])
    assert ids[0] == ids[1]


def test_the_mask_in_the_observation(letters):
    env = ActionMask(ChoiceAction(letters(), "choices"), in_observation=True)
    observation, _ = start(env, 0)
    assert observation["observation"] == "Letter 0?"
    assert observation["action_mask"].tolist() == [1, 1, 0, 0]
    after = env.step(1)[0]
    assert after["action_mask"].tolist() == [1, 1, 0, 0]
    assert after["observation"] == "Letter 0?b"


class Masked(gym.Env):
    """An environment with the actions 5 to 7 and a given info."""

    observation_space = gym.spaces.Discrete(1)
    action_space = gym.spaces.Discrete(3, start=5)

    def __init__(self, info):
        self.info = info

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, dict(self.info)

    def step(self, action):
        self.action = action
        return 0, 0.0, False, False, dict(self.info)


def test_actions_that_do_not_begin_at_zero():
    env = ActionMask(Masked({"action_mask": [0, 1, 0]}), "random")
    env.reset(seed=0)
    env.step(7)
    assert env.unwrapped.action == 6
    with pytest.raises(InvalidAction, match="got 0"):
        env.step(0)


@pytest.mark.parametrize(
    ("info", "match"),
    [
        ({}, "no keys"),
        ({"a": 1}, "'a'"),
        ({"action_mask": [1, 1]}, "must have 3 entries"),
        ({"action_mask": [0, 0, 0]}, "it allows none"),
    ],
)
def test_a_mask_that_is_none_is_named(info, match):
    with pytest.raises(ValueError, match=match):
        ActionMask(Masked(info)).reset()


def test_bad_settings_of_the_mask(letters):
    with pytest.raises(ValueError, match="error, random, got 'no'"):
        ActionMask(Masked({}), on_invalid="no")
    with pytest.raises(TypeError, match="Discrete, got UnicodeText"):
        ActionMask(letters())


class Game(gym.Env):
    """Two steps; nothing can be done when it is over, and the mask may be missing then."""

    observation_space = gym.spaces.Discrete(3)
    action_space = gym.spaces.Discrete(2, start=4)

    def __init__(self, last):
        self.last = last

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return 0, {"action_mask": [0, 1]}

    def step(self, action):
        self.steps += 1
        over = self.steps == 2
        info = {"action_mask": [0, 1]} if not over else self.last
        return self.steps, 1.0, over and action == 5, False, info


@pytest.mark.parametrize("last", [{"action_mask": [0, 0]}, {}])
@pytest.mark.parametrize("in_observation", [True, False])
def test_nothing_is_valid_when_the_game_is_over(last, in_observation):
    env = ActionMask(Game(last), in_observation=in_observation)
    env.reset()
    env.step(5)
    observation, _, terminated, _, _ = env.step(5)
    assert terminated and not env.action_masks().any()
    assert env.observation_space.contains(observation)
    if in_observation:
        assert observation["action_mask"].tolist() == [0, 0]
    with pytest.raises(ResetNeeded, match="the episode is over"):
        env.step(5)
    env.reset()
    assert env.action_masks().tolist() == [False, True]


def test_a_game_that_goes_on_must_allow_something():
    env = ActionMask(Game({"action_mask": [0, 0]}))
    env.unwrapped.step = lambda action: (1, 0.0, False, False, {"action_mask": [0, 0]})
    env.reset()
    with pytest.raises(DataError, match="must allow one choice or more"):
        env.step(5)
