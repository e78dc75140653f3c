"""textenv compare: one loop and one evaluation for all, and files that agree with each other."""

import csv
import json
import sys
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest

from textenv.algos.cli import main
from textenv.algos.compare import clock, loop
from textenv.algos.compare.arena import Arena
from textenv.algos.compare.clock import Watch
from textenv.algos.compare.evaluators import EpisodeEvaluator
from textenv.algos.compare.loop import Observer, compare
from textenv.algos.compare.results import PARTS
from textenv.algos.control.mlp_policy import MLPPolicy
from textenv.algos.evaluation import episode_returns
from textenv.errors import ConfigError

SHORT = ["--total-timesteps", "512", "--eval-every", "256", "--eval-episodes", "3"]


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


@pytest.fixture
def fakes(monkeypatch):
    def use(*agents):
        monkeypatch.setattr(loop, "create", lambda names, arena: [lambda a=a: a for a in agents])

    return use


def test_the_clock_stands_still_while_an_agent_is_evaluated(monkeypatch):
    now = [100.0]
    fake = SimpleNamespace(perf_counter=lambda: now[0], process_time=lambda: 2 * now[0])
    monkeypatch.setattr(clock, "time", fake)

    def evaluate(policy):
        now[0] += 50
        return [policy, policy + 2]

    watch = Watch(evaluate, eval_every=100)
    for steps, policy in ((0, 1), (64, 2), (128, 3), (192, 4), (256, 5)):
        now[0] += 1
        watch(steps, policy)
    run = watch.finish("agent", 7, 256, 6, {"environment": 1.0, "policy": 0.5, "update": 2.5})
    # Checkpoints 0, 100 and 200, each at the first call at or after it.
    assert [(e.steps, e.seconds, e.cpu_seconds) for e in run.evaluations] == [
        (0, 1, 2),
        (128, 3, 6),
        (256, 5, 10),
    ]
    assert [e.mean for e in run.evaluations] == [2, 4, 6]
    assert (run.seconds, run.cpu_seconds, run.steps, run.final) == (5, 10, 256, 6)
    assert run.parts == {"environment": 1.0, "policy": 0.5, "update": 2.5, "other": 1.0}
    assert run.reached(4).steps == 128 and run.reached(6.5) is None


def test_a_run_that_ends_between_checkpoints_is_evaluated_at_its_end():
    watch = Watch(lambda policy: [policy], eval_every=100)
    watch(0, 1.0)
    watch(90, 2.0)
    run = watch.finish("agent", 0, 90, 3.0, {})
    assert [(e.steps, e.mean) for e in run.evaluations] == [(0, 1), (90, 3)]


def test_evaluation_is_that_of_playing_one_episode_after_another():
    starts = [(50 + i, None) for i in range(6)]
    player = EpisodeEvaluator(lambda: gym.make("CartPole-v1"), starts)
    for policy in (cartpole(0), cartpole(1)):
        alone = episode_returns(policy, gym.make("CartPole-v1"), 6, seed=50)
        assert player(policy) == alone.tolist() == player(policy)
        assert len(set(alone)) > 1


def test_a_policy_that_takes_one_observation_gets_one():
    def policy(observation, deterministic=False, episode_start=None, infos=None):
        assert deterministic and observation.shape == (4,) and infos == {}
        starts.append(episode_start)
        return int(observation[2] > 0), {}

    starts = []
    returns = EpisodeEvaluator(lambda: gym.make("CartPole-v1"), [(3, None)])(policy)
    assert len(returns) == 1 and len(starts) == returns[0] and starts[0] is True
    assert not any(starts[1:])


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


def compare_with_scores(arena, names, seeds, observer=None, **kwargs):
    """Compare fakes, scored 1, 2, 3 ... over all evaluations."""
    count = iter(range(1, 10_000))
    object.__setattr__(arena, "evaluator", lambda language: lambda policy: [float(next(count))])
    return compare(names, arena, seeds, observer=observer, **kwargs)


def test_summary_by_hand(fakes):
    fakes(Fake("a", 50), Fake("b", 50))
    arena = Arena("CartPole-v1", {}, 100, 50, 1)
    found = compare_with_scores(arena, ["a", "b"], [0, 1, 2], reach=8.5)
    # Evaluations in order: a 1 2 3, b 4 5 6, a 7 8 9, b 10 11 12, a 13 14 15, b 16 17 18.
    summary = found.summary()
    assert summary["a"]["final_iqm"] == 9 and summary["b"]["final_iqm"] == 12
    better = summary["b"]["probability_of_improvement"]
    assert better["over"] == "a" and better["value"] == pytest.approx(6 / 9)
    assert "probability_of_improvement" not in summary["a"]
    # a reaches 8.5 at 9 (100 steps) and 13 (0 steps), b at 10 and 16, both at once.
    assert summary["a"]["reach"]["reached"] == 2 and summary["a"]["reach"]["median_steps"] == 100
    assert summary["b"]["reach"]["median_steps"] == 0
    assert summary["a"]["reach"]["by_seed"]["0"] is None
    for one in summary.values():
        assert sum(one["shares"].values()) == pytest.approx(1)


def test_a_threshold_that_most_runs_miss_has_no_median(fakes):
    fakes(Fake("a", 50))
    arena = Arena("CartPole-v1", {}, 100, 50, 1)
    reach = compare_with_scores(arena, ["a"], [0, 1, 2], reach=8.5).summary()["a"]["reach"]
    assert reach["reached"] == 1 and reach["median_seconds"] is None


def parse_tables(text):
    """The tables of a Markdown file, as lists of rows by title."""
    tables, rows = [], None
    for line in text.splitlines():
        if not line.startswith("| "):
            rows = None
            continue
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if rows is None:
            titles, rows = cells, []
            tables.append(rows)
        elif not set(line) <= set("|- "):
            assert len(cells) == len(titles), line
            rows.append(dict(zip(titles, cells)))
    return tables


def test_the_files_agree(tmp_path, capsys):
    out = tmp_path / "out"
    argv = ["--agents", "ppo", "random", "--seeds", "2", "--seed", "3", "--reach", "15"]
    assert main(["compare", *argv, *SHORT, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("seed 3") == printed.count("seed 4") == 2
    assert sorted(p.name for p in out.iterdir()) == [
        *("curves.png", "results.csv", "results.json", "results.md")
    ]
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")

    whole = json.loads((out / "results.json").read_text())
    assert whole["settings"]["seeds"] == [3, 4] and whole["machine"]["threads"]["MLX"]
    assert whole["agents"]["ppo"]["settings"]["learning_rate"] == 1e-3
    assert [(r["agent"], r["seed"]) for r in whole["runs"]] == [
        *(("ppo", 3), ("random", 3), ("ppo", 4), ("random", 4))
    ]
    for run in whole["runs"]:
        assert sum(run["parts"].values()) == pytest.approx(run["seconds"])
        assert set(run["parts"]) == set(PARTS) and min(run["parts"].values()) >= 0
        assert run["parts"]["environment"] > 0 and run["parts"]["policy"] > 0
        assert (run["parts"]["update"] > 0) == (run["agent"] == "ppo")
        assert [e["steps"] for e in run["evaluations"]] == [0, 256, 512]
        assert run["evaluations"][-1]["seconds"] <= run["seconds"]

    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    evaluations = [(r, e) for r in whole["runs"] for e in r["evaluations"]]
    assert len(rows) == len(evaluations) == 12
    for row, (run, e) in zip(rows, evaluations):
        assert (row["agent"], int(row["seed"])) == (run["agent"], run["seed"])
        assert int(row["steps"]) == e["steps"] and float(row["seconds"]) == e["seconds"]
        assert float(row["mean_return"]) == pytest.approx(np.mean(e["returns"]), rel=1e-12)
        assert float(row["std_return"]) == pytest.approx(np.std(e["returns"]), rel=1e-12)
        assert int(row["final"]) == (e is run["evaluations"][-1])

    finals, times, reached, by_seed = parse_tables((out / "results.md").read_text())
    for name, final, time, reach in zip(("ppo", "random"), finals, times, reached):
        summary = whole["summary"][name]
        mine = [float(r["mean_return"]) for r in rows if r["agent"] == name and r["final"] == "1"]
        assert final["agent"] == time["agent"] == reach["agent"] == name
        assert float(final["IQM"]) == pytest.approx(np.mean(mine), rel=1e-3)
        assert summary["final_iqm"] == pytest.approx(np.mean(mine))
        assert float(time["seconds"]) == pytest.approx(summary["seconds"], abs=0.006)
        shares = [float(time[part].rstrip("%")) for part in PARTS]
        assert sum(shares) == pytest.approx(100, abs=2)
        assert reach["reached"] == f"{summary['reach']['reached']} of 2"
    assert [row["seed"] for row in by_seed] == ["3", "4"]


def test_an_interrupted_comparison_keeps_what_is_done(tmp_path, fakes, capsys, monkeypatch):
    fakes(Fake("a", 100), Fake("b", 100, stops=True))
    monkeypatch.setattr(Arena, "evaluator", lambda self, language: lambda policy: [1.0, 3.0])
    out = tmp_path / "out"
    assert main(["compare", "--agents", "a", "b", *SHORT, "--out", str(out)]) == 130
    assert "3 run(s)" in capsys.readouterr().out
    runs = json.loads((out / "results.json").read_text())["runs"]
    assert [(r["agent"], r["seed"]) for r in runs] == [("a", 0), ("b", 0), ("a", 1)]
    assert len(list(out.iterdir())) == 4  # and nothing half-written beside


def test_two_runs_of_one_seed_are_equal():
    arena = Arena("CartPole-v1", {}, 512, 256, 3)
    first, second = (compare(["ppo", "random"], arena, [1]).runs for _ in range(2))
    for a, b in zip(first, second):
        assert [e.returns for e in a.evaluations] == [e.returns for e in b.evaluations]


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
def test_what_cannot_be_compared_is_refused_at_once(tmp_path, capsys, argv, says):
    if "--agents" not in argv:
        argv = [*argv, "--agents", "random"]
    out = tmp_path / "out"
    assert main(["compare", *argv, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1, error
    assert not out.exists()


def test_no_seeds_and_no_agents():
    with pytest.raises(ConfigError, match="seeds"):
        compare(["random"], Arena(), [])
    with pytest.raises(ConfigError, match="no agents are named"):
        compare([], Arena(), [0])


def test_a_folder_that_holds_something_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["compare", "--agents", "random", "--out", str(tmp_path)]) == 2
    assert "choose another --out" in capsys.readouterr().err


def test_a_missing_extra_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    argv = ["--agents", "ppo", "sb3:TRPO", "--out", str(tmp_path / "out")]
    assert main(["compare", *argv]) == 2
    assert "textenv[sb3]" in capsys.readouterr().err
