"""Which outcomes of a reward function say that a completion is correct."""

import gymnasium as gym
import pytest

from textenv import reward
from textenv.rewards.correct import full_marks


@pytest.mark.parametrize(
    ("outcome", "verifies", "expected"),
    [
        (1.0, True, True),
        (0.99, True, False),
        (1.0, False, None),
        (None, True, None),
        # The component "correct" decides, whether or not the function verifies.
        ({"correct": 1.0, "short": -3.0}, False, True),
        ({"correct": 0.0, "short": 9.0}, False, False),
        ({"correct": 0.0, "short": 9.0, "mine": 1.0}, True, False),
        ({"correct": True}, False, True),
        ({"correct": None, "short": 1.0}, False, None),
        # Without it, that of the function's own name, or else the sum.
        ({"mine": 1.0, "short": -0.5}, True, True),
        ({"mine": 0.5, "short": 0.5}, True, False),
        ({"right": 0.5, "units": 0.5}, True, True),
        ({"right": 0.5, "units": 0.25, "style": None}, True, False),
        ({"style": None}, True, None),
        ({"right": 1.0}, False, None),
    ],
)
def test_full_marks(outcome, verifies, expected):
    assert full_marks("mine", outcome, verifies) is expected


@reward("graded")
def graded(prompt, completion, example):
    """Right or wrong, and a little for brevity."""
    return {"correct": float(completion == example["answer"]), "short": 0.1 * (len(completion) < 3)}


@pytest.mark.parametrize("num_envs", [None, 2])
def test_an_environment_knows_from_a_dict_what_is_correct(num_envs):
    given = {"prompts": ["2+2="], "examples": [{"answer": "4"}], "reward_fn": "graded"}
    for answer, right, total in [("4", True, 1.1), ("5", False, 0.1), ("444", False, 0.0)]:
        if num_envs is None:
            env = gym.make("textenv:TextGen-v0", **given)
            env.reset(seed=0)
            _, reward, _, _, info = env.step(answer)
            assert info["is_correct"] is right
            parts = {"correct": float(right), "short": total - right}
            assert info["rewards"] == pytest.approx(parts)
        else:
            env = gym.make_vec("textenv:TextGen-v0", num_envs=num_envs, **given)
            env.reset(seed=0)
            _, rewards, _, _, info = env.step((answer,) * num_envs)
            reward = rewards[0]
            assert info["is_correct"].tolist() == [right] * num_envs
        assert reward == pytest.approx(total)


def test_it_must_agree_with_others_that_verify():
    given = {"prompts": ["2+2="], "examples": [{"answer": "4"}]}
    env = gym.make("textenv:TextGen-v0", **given, reward_fn=["graded", "contains"])
    env.reset(seed=0)
    assert env.step("it is 4")[4]["is_correct"] is False
