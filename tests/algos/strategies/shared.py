"""Runners with a part for the prompts, and what of their rollouts must be equal."""

import gymnasium as gym

from textenv.algos import RolloutRunner, create_strategy


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
