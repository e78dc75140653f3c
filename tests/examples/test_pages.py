"""The short examples: what they define does what they say, and they run."""

import random
import sys

import pytest

from textenv.algos import Trajectory, create_strategy
from textenv.tasks import GeneratedTask


def test_the_own_task_has_sums_with_a_carry(example):
    task = example("own_task").Carry(largest=49)
    assert isinstance(task, GeneratedTask)
    for seed in range(200):
        problem = task.generate(random.Random(seed))
        a, b = map(int, problem["prompt"][:-1].split("+"))
        assert min(a, b) >= 10 and max(a, b) <= 49 and a % 10 + b % 10 >= 10
        assert task.score(problem, f" {a + b}") == 1
        assert task.score(problem, str(a + b - 10)) == 0  # the carry is forgotten


@pytest.mark.parametrize(
    ("keep", "kept"), [(4, [0, 1, 4, 5]), (3, [0, 4, 5]), (2, [0, 5]), (1, [5])]
)
def test_the_own_strategy_keeps_the_extremes(example, keep, kept):
    part = example("own_strategy").Extremes(keep=keep)
    group = [Trajectory(rewards=[float(reward)]) for reward in (0, 3, 1, 5, 2, 4)]
    assert [t.total_reward for t in part.select([group])[0]] == kept


def test_the_own_strategy_is_taken_from_its_file(example):
    path = example("own_strategy").__file__
    strategy = create_strategy("grpo", num_generations=8, parts=[f"{path}:Extremes:keep=2"])
    assert [part.keep for part in strategy.selection] == [2]


def test_the_conversation_calls_its_tool(example, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["conversation_with_tools.py"])
    script = example("conversation_with_tools")
    script.main()
    episodes = capsys.readouterr().out.strip().split("\n\n")
    assert len(episodes) == len(script.STOCK) == 3
    for fruit, count in script.STOCK.items():
        (episode,) = [text for text in episodes if f"How many {fruit}" in text]
        assert f"\ntool: {count}\nassistant: There are {count}.\nreward 1" in episode


def test_all_libraries_give_the_same_scores(example):
    script = example("side_by_side")
    scores = {"12+30=": 1.0, "58+67=": 0.0, "99+1=": 1.0}
    assert script.in_gymnasium() == script.in_trl() == scores
    pytest.importorskip("torchrl")
    assert script.in_torchrl() == scores


def test_scores_that_differ_are_a_failure(example, monkeypatch, capsys):
    script = example("side_by_side")
    libraries = {"gymnasium": script.in_gymnasium, "json": lambda: {"12+30=": 0.0}}
    monkeypatch.setattr(script, "LIBRARIES", {**libraries, "no_such_library": dict})
    with pytest.raises(SystemExit, match="the scores differ"):
        script.main()
    assert "no_such_library is not installed" in capsys.readouterr().out
