"""Agents that are not trained, for the tests of comparisons."""

import json

import gymnasium as gym

from textenv.algos.compare import loop
from textenv.algos.compare.arena import Arena
from textenv.algos.compare.loop import compare
from textenv.algos.control.mlp_policy import MLPPolicy


def cartpole(policy_seed=0):
    env = gym.make("CartPole-v1")
    return MLPPolicy(env.observation_space, env.action_space, seed=policy_seed)


class Fake:
    """An agent that takes steps of its own size, and scores its steps."""

    language = False
    warm_up_timesteps = 1

    def __init__(self, name, size, stops=False):
        self.name, self.description, self.size, self.stops = name, f"steps of {size}", size, stops
        self.settings = {"size": size}

    def train(self, seed, total_timesteps, watch):
        watch(0, lambda: None)
        for steps in range(self.size, total_timesteps + self.size, self.size):
            if self.stops and seed == 1:
                raise KeyboardInterrupt
            watch(steps, None)
        return watch.finish(self.name, seed, steps, None, {"policy": 0.0})


def compare_with_scores(arena, names, seeds, observer=None, **kwargs):
    """Compare fakes, scored 1, 2, 3 ... over all evaluations."""
    count = iter(range(1, 10_000))
    object.__setattr__(arena, "evaluator", lambda language: lambda policy: [float(next(count))])
    return compare(names, arena, seeds, observer=observer, **kwargs)


def use(monkeypatch, *agents):
    """Let these be compared, whatever agents are named."""
    monkeypatch.setattr(loop, "create", lambda names, arena: [lambda a=a: a for a in agents])


def text_arena(tmp_path, rows, **kwargs):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    env_kwargs = {"dataset": str(path), "reward_fn": "exact_match"}
    return Arena("TextGen-v0", env_kwargs, **{"eval_episodes": 5} | kwargs)
