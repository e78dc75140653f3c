"""Starting points and groups made by hand, for parts of strategies without a runner."""

from __future__ import annotations

from collections import Counter

import gymnasium as gym
import numpy as np
import pytest

from textenv.algos import Trajectory
from textenv.algos.strategies import Setup, Start
from textenv.wrappers import DictStep


class Epochs:
    """Proposes the examples of a finite task in shuffled epochs, and counts them."""

    def __init__(self, size: int):
        self.turns: Counter[int] = Counter()
        self._size = size
        self._rng = np.random.default_rng(7)
        self._left: list[int] = []

    def __call__(self, count: int) -> list[Start]:
        while len(self._left) < count:
            self._left += self._rng.permutation(self._size).tolist()
        ids, self._left = self._left[:count], self._left[count:]
        self.turns.update(ids)
        return [Start(0, 1000 + i, {"example_id": i}) for i in ids]


@pytest.fixture
def epochs():
    """``epochs(size)``: a ``propose`` for a task of so many examples."""
    return Epochs


@pytest.fixture
def prepared():
    """``prepared(part, size)``: the part, ready for so many own prompts, or for ``env=``."""

    def prepare(part, size=10, env=None, policy=None, num_groups=8, seed=0):
        if env is None:
            prompts = [f"prompt {i}" for i in range(size)]
            env = gym.make("TextGen-v0", prompts=prompts, reward_fn="length")
        part.prepare(Setup(DictStep(env), policy, num_groups, 4, 1, seed))
        return part

    return prepare


@pytest.fixture
def group():
    """``group(example_id, [1, 0, ...])``: trajectories with these outcomes."""

    def make(example_id, outcomes, seed=None, **info):
        return [
            Trajectory(
                actions=[""],
                rewards=[0.25],  # shaped: the outcome is what the task says
                infos=[{"is_correct": bool(right)}],
                reset_info={"example_id": example_id, **info},
                seed=seed,
            )
            for right in outcomes
        ]

    return make


class Answers:
    """Answers sums right at a known rate, by the noise that it is given alone."""

    def __init__(self, rate):
        self.rate = rate

    def __call__(self, observation, deterministic=False, seeds=None):
        a, b = map(int, observation.rstrip("=").split("+"))
        right = np.random.default_rng(seeds).random() < self.rate(observation)
        return str(a + b if right else -1), {}


@pytest.fixture
def answers():
    """``answers(rate)``: a policy for sums, right with probability ``rate(prompt)``."""
    return Answers
