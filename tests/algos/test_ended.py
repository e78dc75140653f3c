"""Answers that are told as they end, and environments that step while others are decoded."""

from __future__ import annotations

import time

import gymnasium as gym
import numpy as np
import pytest

from textenv.algos import RolloutRunner, backend, create_policy, create_strategy

backend.prepare()

import mlx.core as mx  # noqa: E402

from textenv.algos import generation  # noqa: E402
from textenv.algos.generation import Generator  # noqa: E402
from textenv.algos.plain_path import PlainGenerator  # noqa: E402
from textenv.algos.sampling import SamplingParams  # noqa: E402
from textenv.spaces import UnicodeText  # noqa: E402

NO_EOS = [10**6]
LIMITS = [9, 2, 12, 2, 5, 30]


@pytest.fixture
def events(monkeypatch):
    """What happens, in order: a step that is sent to the device is one of them."""
    happened = []
    real = mx.async_eval

    def sent(*arrays):
        happened.append("sent")
        real(*arrays)

    monkeypatch.setattr(generation.mx, "async_eval", sent)
    return happened


@pytest.mark.parametrize("way", ["shared", "plain"])
@pytest.mark.parametrize("batch_size", [6, 2])
def test_each_row_is_told_once_it_has_ended(tiny, events, way, batch_size):
    model = tiny[0]
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, 40, 4).tolist() for _ in LIMITS]
    noise = rng.random((len(prompts), 30), dtype=np.float32)
    generator = Generator(model, NO_EOS, batch_size, sync_every=1)
    if way == "plain":
        generator = PlainGenerator(model, generator._body, generator._head, NO_EOS, batch_size)
    told = {}

    def ended(row, completion):
        assert row not in told
        told[row] = completion
        events.append(row)

    done = generator.generate(prompts, 30, SamplingParams(), noise, limits=LIMITS, ended=ended)
    assert [told[row] for row in range(len(prompts))] == done
    assert [len(completion.token_ids) for completion in done] == LIMITS
    steps = {row: events[: events.index(row)].count("sent") for row in range(len(prompts))}
    if batch_size == 6:
        # After a row's last step no other is waited for, but the next is under way.
        assert steps == {row: min(limit + 1, 29) for row, limit in enumerate(LIMITS)}
    else:
        assert steps[1] < steps[2] < steps[5]


def test_trees_tell_rows_by_their_own_numbers(tiny):
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, 40, 4).tolist() for _ in range(7)]
    noise = rng.random((7, 8), dtype=np.float32)
    told = {}
    done = Generator(tiny[0], NO_EOS, batch_size=3).generate(
        prompts, 8, SamplingParams(), noise, branches=True, ended=told.__setitem__
    )
    assert [told[row] for row in range(7)] == done


class Counting(gym.Env):
    """Text of two turns: says how often any of its copies stepped before."""

    steps = 0

    def __init__(self, seconds=0.0):
        self.observation_space = self.action_space = UnicodeText(100)
        self.seconds = seconds

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.turn = 0
        return "7+8=", {"prompt": "7+8="}

    def step(self, action):
        time.sleep(self.seconds)
        Counting.steps += 1
        self.turn += 1
        info = {"completion": action, "turn": "3+4="}
        return "3+4=", float(Counting.steps), self.turn == 2, False, info


@pytest.fixture
def counting():
    gym.register("Counting-v0", Counting, max_episode_steps=2)
    Counting.steps = 0
    yield "Counting-v0"
    del gym.registry["Counting-v0"]


class Backwards:
    """Answers from the last to the first, the first ones without a word before the end."""

    batched = True

    def __init__(self, told):
        self.told = told

    def __call__(self, observation, deterministic=False, ended=None):
        answers = [f"{i}" for i in range(len(observation))]
        for i in range(len(answers))[::-1][: self.told]:
            before = Counting.steps
            ended(i, answers[i], {})
            assert Counting.steps == before + 1
        return answers, {"value": [0.0] * len(answers)}


@pytest.mark.parametrize("told", [0, 3, 5])
def test_environments_step_once_each_as_they_are_told(counting, told):
    runner = RolloutRunner(
        gym.make(counting),
        Backwards(told),
        create_strategy("grpo", num_generations=5),
        max_steps=10,
    )
    rollout = runner.collect()
    # The told ones step first, from the last on; then the others, from the first on.
    order = [*range(5)[::-1][:told], *range(5 - told)]
    for i, trajectory in enumerate(rollout):
        assert trajectory.actions == [str(i), str(i)]
        assert trajectory.rewards == [order.index(i) + 1, order.index(i) + 6]


def test_vector_environments_step_together():
    env = gym.make_vec("textenv:TextGen-v0", num_envs=5, task="arithmetic")

    class Policy(Backwards):
        def __call__(self, observation, deterministic=False, ended=None):
            assert ended is None
            return super().__call__(observation)

    strategy = create_strategy("grpo", num_generations=5)
    assert len(RolloutRunner(env, Policy(0), strategy, max_steps=5).collect()) == 5


@pytest.mark.parametrize("parts", [[], ["turn_tree:branches=3"]], ids=["chains", "tree"])
def test_a_rollout_is_the_same_told_or_not(tiny, parts):
    def collect(wrap):
        policy = wrap(create_policy(*tiny, {"max_tokens": 8, "seed": 3}))
        env = gym.make("textenv:TextGen-v0", task="guess_number", task_kwargs={"max_turns": 3})
        strategy = create_strategy("grpo", num_generations=8, parts=parts)
        return RolloutRunner(env, policy, strategy, max_steps=3 * 16).collect()

    class Silent:
        """Declares all but ``ended``."""

        batched = True

        def __init__(self, policy):
            self.policy, self.params, self.forget = policy, policy.params, policy.forget

        def __call__(
            self,
            observation,
            deterministic=False,
            infos=None,
            context=None,
            seeds=None,
            continues=None,
            branches=False,
            begun=None,
            limits=None,
        ):
            return self.policy(
                observation,
                deterministic,
                infos,
                context,
                seeds,
                continues,
                branches,
                begun,
                limits,
            )

    for one, other in zip(collect(lambda policy: policy), collect(Silent), strict=True):
        assert (one.actions, one.rewards, one.token_ids) == (
            other.actions,
            other.rewards,
            other.token_ids,
        )
        assert one.token_logprobs == other.token_logprobs


def test_seconds_are_counted_once(tiny, counting):
    policy = create_policy(*tiny, {"max_tokens": 8})
    env = gym.make(counting, seconds=0.02)
    runner = RolloutRunner(env, policy, create_strategy("grpo", num_generations=5), max_steps=20)
    began = time.perf_counter()
    assert len(runner.collect()) == 10
    took = time.perf_counter() - began
    assert 20 * 0.02 <= runner.seconds["environment"] < took
    assert 0 < runner.seconds["policy"] <= took - runner.seconds["environment"]


def test_an_environment_that_raises_ends_the_rollout(tiny):
    policy = create_policy(*tiny, {"max_tokens": 8})
    calls = []

    def broken(prompt, completion, example):
        calls.append(completion)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return 0.0

    env = gym.make("textenv:TextGen-v0", task="arithmetic", reward_fn=broken)
    strategy = create_strategy("grpo", num_generations=4)
    runner = RolloutRunner(env, policy, strategy, max_steps=16)
    with pytest.raises(KeyboardInterrupt):
        runner.collect()
    assert len(calls) == 3
    assert len(runner.collect()) == 16  # and the next one is whole
