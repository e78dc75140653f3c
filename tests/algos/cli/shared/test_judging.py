"""Evaluations before and after a training, by hand."""

from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest

from textenv import TextGenerationEnv
from textenv.algos.cli.shared.judging import control_judge, say_judgement, text_judge
from textenv.errors import ConfigError


class Answers:
    """Says the prompt's number; sampled, nothing that is right."""

    def with_params(self, seed):
        self.seed = seed
        return self

    def __call__(self, observation, deterministic=False):
        return observation.rstrip("=") if deterministic else "x", {}


def numbers(count=4):
    return TextGenerationEnv(
        [f"{i}=" for i in range(count)],
        "exact_match",
        examples=[{"answer": str(i)} for i in range(count)],
    )


def test_text_is_judged_greedy_and_sampled_by_a_seed_of_its_own():
    trainer = SimpleNamespace(policy=Answers(), config=SimpleNamespace(seed=6))
    found = text_judge(trainer, numbers(), 3)()
    assert trainer.policy.seed == 7
    expected = {"reward": 1.0, "length": 0.0, "examples": 3}
    assert found == {
        "greedy": expected | {"accuracy": 1.0},
        "sampled": expected | {"accuracy": 0.0, "reward": 0.0},
    }


class Walk(gym.Env):
    """Ends after as many steps as the seed says, 1 to 3; pays 2 a step, or 1 if sampled."""

    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        self.left = seed % 3 + 1
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.left -= 1
        return np.zeros(1, np.float32), float(action), self.left == 0, False, {}


def test_control_is_judged_by_returns_of_the_same_episodes():
    policy = lambda observation, deterministic=False: (2 if deterministic else 1, {})  # noqa: E731
    judge = control_judge(SimpleNamespace(policy=policy), Walk(), 3)
    lengths = np.array([1, 2, 3])  # in some order
    found = judge()
    assert found == judge()
    for kind, pay in (("greedy", 2), ("sampled", 1)):
        assert found[kind]["return"] == pytest.approx((pay * lengths).mean())
        assert found[kind]["return_std"] == pytest.approx((pay * lengths).std())
        assert found[kind]["examples"] == 3


@pytest.mark.parametrize("judge", [text_judge, control_judge])
def test_nothing_is_judged_on_nothing(judge):
    assert judge(None, None, 3)() is None and judge(None, numbers(), 0)() is None


def test_fewer_than_no_episodes():
    with pytest.raises(ConfigError, match="eval_episodes"):
        control_judge(None, Walk(), -1)


@pytest.mark.parametrize(
    ("greedy", "sampled", "line"),
    [
        (
            {"accuracy": 0.5, "reward": 0.75, "examples": 8},
            {"accuracy": 0.25, "reward": 0.5},
            "after: accuracy greedy 0.500, sampled 0.250 on 8 test examples",
        ),
        (
            {"accuracy": None, "reward": 0.75, "examples": 8},
            {"accuracy": None, "reward": 0.5},
            "after: reward greedy 0.750, sampled 0.500 on 8 test examples",
        ),
        (
            {"return": 21.25, "examples": 5},
            {"return": 9.96},
            "after: return greedy 21.2, sampled 10.0, mean of 5 episodes each",
        ),
    ],
)
def test_what_is_said_of_an_evaluation(greedy, sampled, line):
    said = []
    say_judgement(said.append, "after", {"greedy": greedy, "sampled": sampled})
    say_judgement(said.append, "before", None)
    assert said == [line, "before: not evaluated"]
