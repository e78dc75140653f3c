"""How well a policy does: means over examples, and returns of whole episodes."""

import gymnasium as gym
import numpy as np
import pytest

from tests.algos.control_envs import Steps
from textenv import TextGenerationEnv
from textenv.algos.evaluation import measure
from textenv.algos.evaluation.measure import episode_returns, evaluate, evaluation_ids
from textenv.algos.evaluation.results import Evaluation
from textenv.errors import ConfigError, RewardError


def numbers(count=8):
    """Own prompts "0=" to "7=", whose answers are the numbers."""
    return TextGenerationEnv(
        [f"{i}=" for i in range(count)],
        "exact_match",
        examples=[{"answer": str(i)} for i in range(count)],
    )


def test_means_over_the_examples_by_hand():
    """Right for even numbers; of n a policy writes n tokens."""

    def policy(observation, deterministic=False):
        number = int(observation.rstrip("="))
        asked.append((number, deterministic))
        tokens = {
            "prompt_ids": [1],
            "token_ids": [2] * number,
            "token_logprobs": [0.0] * number,
            "truncated": False,
        }
        return str(number) if number % 2 == 0 else "x", tokens

    asked = []
    assert evaluate(policy, numbers(), examples=5) == Evaluation(
        accuracy=3 / 5,
        reward=3 / 5,
        components={"exact_match": 3 / 5},
        length=(0 + 1 + 2 + 3 + 4) / 5,
        truncated=0.0,
        examples=5,
    )
    assert asked == [(i, True) for i in range(5)]
    asked.clear()
    found = evaluate(policy, numbers(), examples=100, deterministic=False)
    assert found.examples == 8 and {greedy for _, greedy in asked} == {False}
    figures = {"accuracy": 0.5, "reward": 0.5, "length": 3.5, "examples": 8}
    assert figures.items() <= found.as_dict().items()


def test_without_a_verifier_there_is_no_accuracy():
    env = TextGenerationEnv(["a", "b"], "length")
    assert evaluate(lambda observation, deterministic: ("xy", {}), env).accuracy is None


def test_ids_are_of_different_examples_and_always_the_same():
    env = gym.make("textenv:TextGen-v0", task="arithmetic")
    ids = evaluation_ids(env, 50)
    task = env.unwrapped.task
    assert ids == evaluation_ids(env, 50) and len(ids) == 50
    assert len({task.example(i)["prompt"] for i in ids}) == 50
    assert evaluation_ids(numbers(), 3) == numbers().task.ids[:3]
    # A task that has few prompts gives each of them once.
    few = gym.make("textenv:TextGen-v0", task="guess_number")
    prompts = [few.unwrapped.task.example(i)["prompt"] for i in evaluation_ids(few, 10)]
    assert len(set(prompts)) == len(prompts)
    with pytest.raises(ConfigError, match="CartPoleEnv has no task"):
        evaluation_ids(gym.make("CartPole-v1"), 3)


class Sampler:
    """Takes batches, and says the number that the seed of its noise is; it counts its calls."""

    batched = True

    def __init__(self, takes=0.0, clock=None):
        self.calls, self._takes, self._clock = [], takes, clock

    def __call__(self, observation, deterministic=False, seeds=None):
        self.calls.append(list(observation))
        if self._clock is not None:
            self._clock(self._takes * len(observation))
        return [str(seed) for seed in seeds or ["greedy"] * len(observation)], {}


def test_samples_of_an_example_differ_and_do_not_depend_on_what_else_is_played():
    few = evaluate(Sampler(), numbers(3), deterministic=False, samples=4)
    many = evaluate(Sampler(), numbers(90), [2, 50, 1], deterministic=False, samples=4)
    assert few.samples == many.samples == 4 and few.examples == many.examples == 3
    assert [record.example_id for record in many.records] == [2, 50, 1]
    assert all(len({*record.completions}) == 4 for record in few.records)
    assert many.records[0] == few.records[2] and many.records[2] == few.records[1]
    assert evaluate(Sampler(), numbers(3)).records[0].completions == ["greedy"]


def test_a_record_has_what_was_extracted_and_what_was_expected():
    env = TextGenerationEnv(
        ["2+2=", "3+3="],
        "exact_match",
        examples=[{"answer": "4"}, {"answer": "6"}],
        extract="last_number",
    )
    says = {"2+2=": "It is 4.", "3+3=": "No idea"}
    found = evaluate(lambda prompt, deterministic=False: (says[prompt], {}), env)
    right, wrong = found.records
    assert (right.prompt, right.expected, right.completions) == ("2+2=", "4", ["It is 4."])
    assert (right.answers, right.correct, right.rewards) == (["4"], [True], [1.0])
    assert (wrong.answers, wrong.correct, wrong.components) == (
        [None],
        [False],
        [{"exact_match": 0.0}],
    )


def test_examples_are_played_in_batches_that_grow():
    policy, seen = Sampler(), []
    evaluate(policy, numbers(400), on_progress=lambda done, total: seen.append((done, total)))
    assert [len(call) for call in policy.calls] == [32, 64, 128, 128, 48]
    assert seen == [(32, 400), (96, 400), (224, 400), (352, 400), (400, 400)]
    assert [x for call in policy.calls for x in call] == [f"{i}=" for i in range(400)]
    policy = Sampler()
    evaluate(policy, numbers(20), deterministic=False, samples=16)
    assert [len(call) for call in policy.calls] == [2 * 16, 4 * 16, 8 * 16, 6 * 16]


def test_it_takes_fewer_examples_if_all_would_take_too_long(clock):
    """At a second an example, 100 s are enough for 100 of them, a random part of the whole."""
    seen = []
    found = evaluate(
        Sampler(1.0, clock),
        numbers(400),
        most_seconds=100,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(32, 100), (96, 100), (100, 100)]
    assert found.examples == 100 and found.left_out == 300
    ids = [record.example_id for record in found.records]
    assert ids == sorted({*ids}) and 150 < np.mean(ids) < 250  # not the first 100
    again = evaluate(Sampler(1.0, clock), numbers(400), most_seconds=100)
    assert [record.example_id for record in again.records] == ids
    # The first batch is played in any case, and so are as many as are asked for.
    assert evaluate(Sampler(1.0, clock), numbers(400), most_seconds=1e-9).examples == 32
    assert evaluate(Sampler(1.0, clock), numbers(400), most_seconds=1, fewest=50).examples == 50
    assert evaluate(Sampler(1.0, clock), numbers(400), most_seconds=1e9).left_out == 0


def test_a_slow_end_is_cut_too(clock):
    """The pace is measured again after each batch."""

    class Slower(Sampler):
        def __call__(self, observation, deterministic=False, seeds=None):
            self._takes = 0.1 if not self.calls else 2.0
            return super().__call__(observation, deterministic, seeds)

    found = evaluate(Slower(0.0, clock), numbers(400), most_seconds=40)
    assert found.examples == 32 + 64  # 3.2 s, and then 128 s: nothing more


def test_what_is_not_measured():
    policy = lambda observation, deterministic=False: ("x", {})  # noqa: E731
    with pytest.raises(ConfigError, match="samples=3: greedy answers to one example"):
        evaluate(policy, numbers(), samples=3)
    with pytest.raises(ConfigError, match="samples must be an integer >= 1, got 0"):
        evaluate(policy, numbers(), deterministic=False, samples=0)
    for nothing in (0, []):
        with pytest.raises(ConfigError, match="examples must be an integer >= 1, got 0"):
            evaluate(policy, numbers(), nothing)


def test_an_interrupt_leaves_it():
    def interrupted(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(Sampler(), numbers(), on_progress=interrupted)


class Walk(gym.Env):
    """Ends after as many steps as the seed's last digit, at least one; pays 1, 2, 3 ..."""

    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.steps, self.last = 0, max(1, seed % 10)
        return np.zeros(1, np.float32), {"seed": seed}

    def step(self, action):
        self.steps += 1
        ended = self.steps == self.last
        return (
            np.zeros(1, np.float32),
            float(self.steps),
            ended and action,
            ended,
            {"n": self.steps},
        )


def test_returns_of_episodes_by_hand():
    returns = episode_returns(lambda observation, deterministic: (1, {}), Walk(), 4, seed=2)
    assert returns.tolist() == [1 + 2, 1 + 2 + 3, 10, 15] and returns.dtype == np.float64


def test_a_policy_is_told_of_starts_and_infos_if_it_wants():
    seen = []

    def policy(observation, deterministic, episode_start, infos):
        seen.append((deterministic, episode_start, infos))
        return 0, {}

    episode_returns(policy, Walk(), 2, seed=2, deterministic=False)
    assert seen == [
        (False, True, {"seed": 2}),
        (False, False, {"n": 1}),
        (False, True, {"seed": 3}),
        (False, False, {"n": 1}),
        (False, False, {"n": 2}),
    ]


def test_no_episodes_have_no_return():
    with pytest.raises(ConfigError, match="episodes"):
        episode_returns(lambda observation, deterministic: (0, {}), Walk(), 0)


def test_an_episode_without_end_is_given_up(monkeypatch):
    """The message names the remedies; a TimeLimit above the cap is believed."""
    monkeypatch.setattr(measure, "MOST_STEPS", 20)
    policy = lambda observation, deterministic: (0, {})  # noqa: E731
    assert episode_returns(policy, Steps(20), 2).tolist() == [20, 20]
    with pytest.raises(ConfigError) as caught:
        episode_returns(policy, Steps(21))
    for word in ("Steps goes on after 20 steps", "TimeLimit", "max_episode_steps"):
        assert word in str(caught.value)
    assert "--eval-episodes 0" in str(caught.value)
    limited = gym.wrappers.TimeLimit(Steps(21), 10)
    assert episode_returns(policy, limited, 1).tolist() == [10]
    long = Steps(25)
    long.spec = gym.envs.registration.EnvSpec("Steps-v0", max_episode_steps=30)
    assert episode_returns(policy, long, 1).tolist() == [25]


def test_rewards_that_abstain_from_everything_are_named():
    env = gym.make("textenv:TextGen-v0", prompts=["a", "b"], reward_fn=lambda *_: None)
    with pytest.raises(RewardError, match="<lambda> returned None for all 2 completions"):
        evaluate(lambda prompt, deterministic=False: ("x", {}), env)


def test_completions_that_are_not_scored_count_in_no_mean():
    def judge(prompt, completion, example):
        return None if prompt == "a" else 3.0

    env = gym.make("textenv:TextGen-v0", prompts=["a", "b"], reward_fn=judge)
    assert evaluate(lambda prompt, deterministic=False: ("x", {}), env).reward == 3.0
