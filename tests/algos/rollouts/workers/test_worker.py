"""The inside of a worker, without a process around it."""

from __future__ import annotations

from functools import partial

import gymnasium as gym
import numpy as np
import pytest

from tests.algos.rollouts.shared import GROUPS_OF_4, make_sums
from textenv.algos import RolloutRunner, create_strategy
from textenv.algos.rollouts.workers import worker as module
from textenv.algos.rollouts.workers.worker import (
    GradientItem,
    Recipe,
    RolloutItem,
    RolloutWorker,
    WorkerError,
)


@pytest.fixture(autouse=True)
def threads(monkeypatch):
    """How many threads were asked for; this process keeps its own."""
    asked = []
    monkeypatch.setattr(module.blas, "limit_threads", asked.append)
    return asked


class Reader:
    """Answers with its weights and the noise that it is given."""

    batched = True

    def __init__(self):
        self.weights, self.seeds = "first", []

    def __call__(self, observation, deterministic=False, seeds=None):
        return [f"{self.weights} {seed}" for seed in seeds], {}

    def set_tensors(self, tensors):
        self.weights = str(tensors["w"])

    def reseed(self, seed):
        self.seeds.append(seed)


def make_worker(**changes):
    recipe = Recipe(make_sums, Reader, GROUPS_OF_4, max_steps=8, seed=0, **changes)
    return RolloutWorker(recipe)


def test_items_are_played_as_a_runner_plays_them():
    runner = RolloutRunner(make_sums(), Reader(), GROUPS_OF_4, 8, seed=0)
    starts = runner.plan()
    worker = make_worker()
    worker.set_weights(1, {"w": np.array(2.5)})
    played = worker.play(RolloutItem(1, starts[4:]))
    runner.policy.set_tensors({"w": 2.5})
    runner.policy_version = 1
    assert played.trajectories == list(runner.play_starts(starts[4:]))
    assert {t.policy_version for t in played.trajectories} == {1}
    assert all(t.actions[0].startswith("2.5 ") for t in played.trajectories)
    assert played.seconds.keys() == {"environment", "policy"}


def test_seconds_are_those_of_the_item(clock):
    class Slow(Reader):
        def __call__(self, observation, deterministic=False, seeds=None):
            clock(3)
            return super().__call__(observation, deterministic, seeds)

    recipe = Recipe(make_sums, Slow, GROUPS_OF_4, max_steps=8, seed=0)
    worker = RolloutWorker(recipe)
    worker.set_weights(0, {})
    starts = worker.runner.plan()
    for _ in range(2):  # not of both together
        assert worker.play(RolloutItem(0, starts)).seconds == {"environment": 0.0, "policy": 3.0}


def test_items_for_other_weights_are_refused():
    worker = make_worker(create_gradient=lambda policy: lambda batches: pytest.fail("computed"))
    starts = worker.runner.plan()
    for sent in (None, 2):
        if sent is not None:
            worker.set_weights(sent, {"w": np.array(1.0)})
        with pytest.raises(WorkerError, match="version 1 came to a worker"):
            worker.play(RolloutItem(1, starts))
        with pytest.raises(WorkerError, match="version 1 came to a worker"):
            worker.compute_gradient(GradientItem(1, []))


def test_lanes_of_control_are_numbered_among_those_of_all_workers():
    def policy(observation):
        return np.zeros(len(observation), int), {}

    recipe = Recipe(
        partial(gym.make_vec, "CartPole-v1", num_envs=3),
        lambda: policy,
        create_strategy("ppo"),
        max_steps=30,
        seed=1,
        first_env=6,
    )
    worker = RolloutWorker(recipe)
    worker.set_weights(0, {})  # a policy without weights
    played = worker.play(RolloutItem(0)).trajectories
    assert sorted({t.env_index for t in played}) == [6, 7, 8]
    assert sum(map(len, played)) == 30


def test_the_recipe_says_threads_and_noise(threads):
    worker = make_worker(threads=3, noise=42)
    assert threads == [3] and worker.runner.policy.seeds == [42]
    assert make_worker().runner.policy.seeds == [] and threads == [3, 1]


def test_gradients_are_computed_with_the_workers_policy():
    def create(policy):
        return lambda batches: (policy.weights, batches)

    worker = make_worker(create_gradient=create)
    worker.set_weights(5, {"w": np.array(0.5)})
    assert worker.compute_gradient(GradientItem(5, ["a microbatch"])) == ("0.5", ["a microbatch"])
