"""Rollouts of control and of text, of one environment and of several."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from tests.algos.storage.shared import ENDINGS, NEEDS
from textenv.algos import RolloutRunner, create_policy, create_strategy, load_model
from textenv.algos.storage.format_json import SCHEMA_PATH
from textenv.algos.storage.source import describe_source


def collect(env, policy, steps, strategy=None, **algorithm):
    runner = RolloutRunner(env, policy, strategy, max_steps=steps)
    rollout = runner.collect()
    rollout.source = describe_source(runner, **algorithm)
    return rollout


@pytest.fixture(scope="session")
def control():
    def policy(obs):
        return (obs[:, 2] > 0).astype(np.int64), {"value": obs[:, 0], "logprob": -(obs[:, 1] ** 2)}

    env = SyncVectorEnv(
        [lambda: gym.make("CartPole-v1", max_episode_steps=30)] * 4,
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    return collect(env, policy, 200, gamma=0.99, gae_lambda=0.95)


@pytest.fixture(scope="session")
def single():
    def policy(obs):
        return np.float32([obs[2] / 8]), {"unclipped_action": np.float32([obs[2] / 4])}

    return collect(gym.make("Pendulum-v1"), policy, 40)


@pytest.fixture(scope="session")
def words():
    policy = create_policy(*load_model("tiny-lm"), {"max_tokens": 5, "top_p": 0.9})
    env = gym.make("textenv:TextGen-v0", task="guess_number")
    return collect(env, policy, 96, create_strategy("grpo", num_generations=2))


@pytest.fixture(scope="session")
def tokens():
    def policy(obs):
        return int(obs["ids"][0]) % 5, {}

    env = gym.make("textenv:TextGenTokens-v0", tokenizer="tiny-lm", max_tokens=4)
    return collect(env, policy, 10)


@pytest.fixture(params=["control", "single", "words", "tokens"])
def rollout(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def schema():
    return json.loads(SCHEMA_PATH.read_text())


@pytest.fixture(params=ENDINGS)
def ending(request):
    if request.param in NEEDS:
        pytest.importorskip(NEEDS[request.param])
    return request.param
