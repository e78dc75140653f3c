"""Prompts in the uniform order are what comes without a part."""

from __future__ import annotations

import gymnasium as gym

from textenv.algos import RolloutRunner, create_strategy
from textenv.algos.strategies import make_part


def rate(prompt):
    return int(prompt[1]) / 9


def make_runner(answers, part, finite):
    kwargs = {}
    if finite:
        numbers = [(i, j) for i in range(10, 15) for j in range(20, 25)]
        kwargs = {
            "prompts": [f"{i}+{j}=" for i, j in numbers],
            "examples": [{"answer": str(i + j)} for i, j in numbers],
            "reward_fn": "exact_match",
        }
    strategy = create_strategy("grpo", num_generations=4, parts=[part])
    env = gym.make("TextGen-v0", **kwargs)
    return RolloutRunner(env, answers(rate), strategy, max_steps=4 * 6)


def plain(buffer):
    return [(t.prompt, t.actions, t.rewards, t.reset_info, t.group_id) for t in buffer]


def test_uniform_is_what_comes_without_a_part(answers):
    one, two = (
        make_runner(answers, "uniform", True),
        make_runner(answers, make_part("uniform"), True),
    )
    two.strategy = create_strategy("grpo", num_generations=4)
    for _ in range(3):
        assert plain(one.collect()) == plain(two.collect())
    assert one.strategy.prompts.skipped == 0
