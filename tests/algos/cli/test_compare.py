"""textenv compare: what it refuses, and what an interruption leaves."""

import json
import sys

import pytest

from tests.algos.compare.shared import Fake, use
from textenv.algos.cli import main
from textenv.algos.compare.arena import Arena

SHORT = ["--total-timesteps", "512", "--eval-every", "256", "--eval-episodes", "3"]


def test_an_interrupted_comparison_keeps_what_is_done(tmp_path, capsys, monkeypatch):
    use(monkeypatch, Fake("a", 100), Fake("b", 100, stops=True))
    monkeypatch.setattr(Arena, "evaluator", lambda self, language: lambda policy: [1.0, 3.0])
    out = tmp_path / "out"
    assert main(["compare", "--agents", "a", "b", *SHORT, "--out", str(out)]) == 130
    assert "3 run(s)" in capsys.readouterr().out
    runs = json.loads((out / "results.json").read_text())["runs"]
    assert [(r["agent"], r["seed"]) for r in runs] == [("a", 0), ("b", 0), ("a", 1)]
    assert len(list(out.iterdir())) == 4  # and nothing half-written beside


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--agents", "sb3:PP0"], "did you mean 'sb3:PPO'"),
        (["--agents", "pp"], "Known: ppo, random, sb3:PPO, sb3-learn:PPO"),
        (["--agents", "ppo", "ppo"], "named twice"),
        (["--agents", "grpo"], "CartPole-v1 is not text"),
        (["--seeds", "0"], "seeds must be an integer >= 1, got 0"),
        (["--threads", "0"], "threads must be an integer >= 1, got 0"),
        (["--eval-episodes", "0"], "eval_episodes"),
        (["--total-timesteps", "0"], "total_timesteps"),
        (["--eval-every", "0"], "eval_every"),
        (["--env", "CartPole-v77"], "not registered"),
        (["--choices", "a", "b"], "are for text"),
    ],
)
def test_what_cannot_be_compared_is_refused_at_once(tmp_path, refused, argv, says):
    if "--agents" not in argv:
        argv = [*argv, "--agents", "random"]
    out = tmp_path / "out"
    assert says in refused("compare", *argv, "--out", str(out))
    assert not out.exists()


def test_a_folder_that_holds_something_is_left_alone(tmp_path, refused):
    (tmp_path / "mine.txt").write_text("mine")
    argv = ["compare", "--agents", "random", "--out", str(tmp_path)]
    assert "choose another --out" in refused(*argv)


def test_a_missing_extra_is_named(tmp_path, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    argv = ["--agents", "ppo", "sb3:TRPO", "--out", str(tmp_path / "out")]
    assert "textenv[sb3]" in refused("compare", *argv)
