"""Rollouts of many kinds, made by hand and by playing."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Tuple
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from textenv.algos import Buffer, RolloutRunner, Trajectory, create_policy, create_strategy
from textenv.algos.episodes.trajectory import RolloutSource
from textenv.algos.storage.files import FORMATS
from textenv.algos.storage.source import describe_source
from textenv.algos.storage.space_json import describe_space

NEEDS = {"parquet": "pyarrow", "minari": "minari"}


ENDINGS = list(FORMATS)


FILES = [ending for ending in FORMATS if ending != "minari"]


def control_rollout(steps=60):
    def policy(obs):
        actions = (obs[:, 2] > 0).astype(np.int64)
        return actions, {"value": obs[:, 0] / 3, "logprob": -(obs[:, 1] ** 2)}

    env = SyncVectorEnv(
        [lambda: gym.make("CartPole-v1")] * 2, autoreset_mode=AutoresetMode.SAME_STEP
    )
    runner = RolloutRunner(env, policy, max_steps=steps)
    rollout = runner.collect()
    rollout.source = describe_source(runner, gamma=0.99, gae_lambda=0.95)
    return rollout


def single_rollout():
    class Clipping:
        def __init__(self):
            self.rng = np.random.default_rng(0)

        def __call__(self, obs):
            drawn = self.rng.normal(scale=3, size=1).astype(np.float32)
            return np.clip(drawn, -2, 2), {"unclipped_action": drawn, "logprob": -0.5}

        def values(self, observations):
            return [float(obs[0]) / 7 for obs in observations]

    runner = RolloutRunner(gym.make("Pendulum-v1"), Clipping(), max_steps=30)
    rollout = runner.collect()
    rollout.source = describe_source(runner)
    return rollout


def text_rollout(tiny):
    prompts = ['1+1="', "éß中🙂\n\t\\"]
    env = gym.make("TextGen-v0", prompts=prompts, reward_fn=lambda p, c, e: {"length": len(c) / 7})
    policy = create_policy(*tiny, {"max_tokens": 6, "top_p": 0.9})
    runner = RolloutRunner(env, policy, create_strategy("grpo", num_generations=3), max_steps=6)
    rollout = runner.collect()
    rollout.source = describe_source(runner)
    return rollout


def structured_rollout():
    """Two trajectories of what is awkward: nested spaces, texts, scalars, arrays of all types."""
    spaces = {
        "image": Box(0, 255, (2, 3, 1), np.uint8),
        "mask": MultiBinary(4),
        "pair": Tuple([Discrete(5), Box(-np.inf, np.inf, (2,), np.float32)]),
    }
    rng = np.random.default_rng(3)

    def observation():
        return {
            "image": rng.integers(256, size=(2, 3, 1), dtype=np.uint8),
            "mask": rng.integers(2, size=4, dtype=np.int8),
            "pair": (np.int64(rng.integers(5)), rng.normal(size=2).astype(np.float32)),
        }

    infos = [
        {},
        {"flag": np.bool_(True), "nested": {"count": np.int64(3), "none": None, "t": (1, "a")}},
        {"dtype": "a", "shape": [1], "data": 2},  # as if it were an array
        {"__tuple__": [1], "deep": [{"x": np.zeros((0, 3)), "y": np.float32(0.1)}, [], ()]},
    ]
    trajectories = [
        Trajectory(
            observations=[observation() for _ in infos],
            actions=[np.array([1 / 3, -0.0], np.float64)] * len(infos),
            rewards=[1 / 3, -0.0, 1e308, 5e-324],
            infos=infos,
            final_observation=observation(),
            truncated=True,
            reset_info={"text": "</script>\u2028 é中🙂", "a": np.arange(3, dtype=np.uint16)},
            policy_version=4,
            group_id=0,
        ),
        Trajectory(
            observations=[observation()],
            actions=[np.array([2**-1074, 1e300])],
            rewards=[0.1],
            infos=[{"words": np.array(["é", "longer"])}],
            final_observation=observation(),
            terminated=True,
            seed=2**40,
            env_index=3,
            episode=5,
            first_step=17,
            values=[0.2],
            support=None,
        ),
    ]
    source = RolloutSource(
        observation_space=describe_space(Dict(spaces)),
        action_space=describe_space(Box(-np.inf, np.inf, (2,), np.float64)),
        env_kwargs={"nested": {"é": [1, None, 2.5]}},
        versions={"numpy": "1"},
    )
    return Buffer(trajectories, source)


def empty_rollout():
    return Buffer(source=control_rollout(2).source)


KINDS = {
    "control": control_rollout,
    "single": single_rollout,
    "structured": structured_rollout,
    "empty": empty_rollout,
}
