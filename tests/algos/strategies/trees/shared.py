"""One way to play trees of one turn."""

from __future__ import annotations

import gymnasium as gym

from textenv.algos import RolloutRunner, create_policy, create_strategy

PROMPTS = ["12+30=", "a", "the longest prompt = "]


SETTINGS = {"max_tokens": 12, "temperature": 1.3, "seed": 3}


def digits(prompt, completion, example):
    """A reward that varies with the text."""
    return float(sum(c.isdigit() for c in completion)) / 4


def make_env():
    return gym.make("textenv:TextGen-v0", prompts=PROMPTS, reward_fn=digits)


def collect(model, parts, size=8, groups=3, rollouts=1, **settings):
    policy = create_policy(*model, SETTINGS | settings)
    strategy = create_strategy("grpo", num_generations=size, parts=parts)
    runner = RolloutRunner(make_env(), policy, strategy, size * groups, seed=5)
    for _ in range(rollouts):
        rollout = runner.collect()
    return rollout, policy, runner
