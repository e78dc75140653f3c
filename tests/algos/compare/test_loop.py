"""Agents take turns, and equal seeds give equal runs."""

import pytest

from tests.algos.compare.shared import Fake, compare_with_scores
from textenv.algos.compare.arena import Arena
from textenv.algos.compare.loop import Observer, compare
from textenv.errors import ConfigError


def test_agents_take_turns_within_each_seed(fakes):
    fakes(Fake("a", 100), Fake("b", 30))
    seen = []

    class Recorder(Observer):
        def on_start(self, agent, seed):
            seen.append((agent, seed))

    arena = Arena("CartPole-v1", {}, 100, 50, 2)
    found = compare_with_scores(arena, ["a", "b"], [4, 5], Recorder())
    assert seen == [("a", 4), ("b", 4), ("a", 5), ("b", 5)]
    assert [(r.agent, r.seed) for r in found.runs] == seen
    assert [r.steps for r in found.runs_of("b")] == [120, 120]
    assert [e.steps for e in found.runs_of("b")[0].evaluations] == [0, 60, 120]


def test_two_runs_of_one_seed_are_equal():
    arena = Arena("CartPole-v1", {}, 512, 256, 3)
    first, second = (compare(["ppo", "random"], arena, [1]).runs for _ in range(2))
    for a, b in zip(first, second):
        assert [e.returns for e in a.evaluations] == [e.returns for e in b.evaluations]


def test_no_seeds_and_no_agents():
    with pytest.raises(ConfigError, match="seeds"):
        compare(["random"], Arena(), [])
    with pytest.raises(ConfigError, match="no agents are named"):
        compare([], Arena(), [0])
