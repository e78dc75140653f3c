"""Evaluations before and after a training, by hand."""

from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from rich.console import Console

from textenv import TextGenerationEnv
from textenv.algos.cli.shared.judging import TextJudge, control_judge, say_judgement
from textenv.errors import ConfigError


class Answers:
    """Says the prompt's number; sampled, nothing that is right."""

    def with_params(self, seed, precision):
        assert precision == "float32"  # whatever rollouts are sampled in
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
    found = TextJudge(trainer, numbers(), 3)()
    assert trainer.policy.seed == 7
    expected = {"reward": 1.0, "length": 0.0, "examples": 3}
    assert {*found} == {"greedy", "sampled"}
    assert (expected | {"accuracy": 1.0}).items() <= found["greedy"].items()
    assert (expected | {"accuracy": 0.0, "reward": 0.0}).items() <= found["sampled"].items()


class Slow(Answers):
    """Takes batches; an answer takes a second, and only one of two is right at first."""

    batched = True

    def __init__(self, clock):
        self.clock, self.knows = clock, 50

    def __call__(self, observation, deterministic=False):
        self.clock(len(observation))
        numbers = [text.rstrip("=") for text in observation]
        return [n if int(n) < self.knows else "x" for n in numbers], {}


def test_an_evaluation_takes_a_share_of_the_run(clock):
    """Of 1,000 completions, each about three times the time of an answer, a tenth for four."""
    trainer = SimpleNamespace(policy=Slow(clock), config=SimpleNamespace(seed=6))
    judge = TextJudge(trainer, numbers(400), 300, completions=1000, share=0.1)
    found = judge()
    assert found["greedy"]["examples"] == 0.1 * 1000 * 3 / 4 and found["greedy"]["left_out"] == 225
    assert found["sampled"]["examples"] == 75 and judge.change is None
    ids = [[r.example_id for r in e.records] for e in judge.evaluations.values()]
    trainer.policy.knows = 400
    judge()
    ids += [[r.example_id for r in e.records] for e in judge.evaluations.values()]
    assert all(own == ids[0] for own in ids)
    assert judge.change.second == 1.0 and judge.change.only_first == 0
    assert judge.change.first == np.mean([i < 50 for i in ids[0]])


def test_what_is_quick_is_never_cut(clock):
    trainer = SimpleNamespace(policy=Slow(lambda n: clock(0.1 * n)), config=SimpleNamespace(seed=6))
    judge = TextJudge(trainer, numbers(400), 300, completions=10, share=0.1)
    assert judge()["greedy"]["examples"] == 100  # ten seconds
    judge = TextJudge(trainer, numbers(400), 300)
    assert judge()["greedy"]["examples"] == 300


@pytest.mark.parametrize(
    ("there", "wanted", "said"), [(3, 300, True), (9, 300, True), (10, 300, False), (9, 9, False)]
)
def test_few_held_out_examples_are_said_once(clock, there, wanted, said):
    trainer = SimpleNamespace(policy=Slow(lambda n: clock(0.1 * n)), config=SimpleNamespace(seed=6))
    console = Console(record=True, width=200)
    judge = TextJudge(trainer, numbers(there), wanted, console=console)
    judge()
    judge()
    assert console.export_text().count(f"these are only {there}: --eval-dataset") == said


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


@pytest.mark.parametrize("judge", [TextJudge, control_judge])
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
            {
                **{"accuracy": 0.5, "accuracy_interval": [0.25, 0.75], "examples": 8},
                **{"left_out": 4},
            },
            {"accuracy": 0.25, "accuracy_interval": [0.125, 0.5]},
            "after: accuracy greedy 0.500 (0.250 to 0.750), sampled 0.250 (0.125 to 0.500) on 8 "
            "test examples of 12, to save time (eval_share)",
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


def test_components_and_what_was_cut_off_have_lines_of_their_own():
    said = []
    greedy = {"accuracy": 0.5, "examples": 8, "rewards": {"right": 0.5, "short": 0.25}}
    sampled = {"accuracy": 0.5, "rewards": {"right": 0.5}, "truncated": 0.375}
    say_judgement(said.append, "before", {"greedy": greedy, "sampled": sampled})
    assert said[1:] == [
        "before: greedy right 0.500, short 0.250",
        "before: sampled 38% of the answers cut off",
    ]
