"""textenv envs: every environment, task and reward function has a line of its own."""

import re

import gymnasium as gym
import pytest

from textenv import rewards, tasks
from textenv.algos.cli import main


@pytest.fixture
def lines(capsys):
    assert main(["envs", "--seed", "3"]) == 0
    return capsys.readouterr().out.splitlines()


def test_everything_has_one_line(lines):
    named = [line.split()[0] for line in lines if line.startswith("  ")]
    ids = sorted(name for name in gym.registry if name.lower().startswith("textgen"))
    assert sorted(named) == sorted([*ids, *tasks.names(), *rewards.names()])
    assert all(line.isprintable() for line in lines)


def test_lines_say_what_a_thing_is(lines):
    said = {line.split()[0]: " ".join(line.split()[1:]) for line in lines if line[:2] == "  "}
    ids = {name: text for name, text in said.items() if name.startswith("textgen/")}
    assert len(set(ids.values())) == len(ids) >= 6  # no two alike
    example = tasks.make("arithmetic").example(3)
    assert said["arithmetic"].endswith(f"({example['prompt']!r} -> {example['answer']!r})")
    untold = {name for name, text in said.items() if not text}
    # Two games have no settings that could be told.
    assert untold <= {"textarena:RushHour-v0", "textarena:Set-v0"}
    if "textarena:Mastermind-v0" in said:
        assert re.search(r"\bcode_length=4\b", said["textarena:Mastermind-v0"])
    if "reasoning_gym:chain_sum" in said:
        assert said["reasoning_gym:chain_sum"].startswith("arithmetic: ")
