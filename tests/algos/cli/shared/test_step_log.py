"""What is wrong stands in the metrics of its step, and is shown once."""

import io
import json
from types import SimpleNamespace

import mlx.nn as nn
from rich.console import Console

from textenv.algos import create_strategy
from textenv.algos.cli.shared.display import TextDisplay
from textenv.algos.cli.shared.run_folder import RunFolder
from textenv.algos.cli.shared.step_log import KeepAnswers, StepLog
from textenv.algos.episodes.rollout import Rollout
from textenv.algos.episodes.trajectory import Trajectory
from textenv.algos.evaluation.results import Evaluation, Record
from textenv.algos.rollouts.health.watch import Finding, HealthWatch

METRICS = {
    **{"reward": 0.25, "step_time": 0.5, "frac_reward_zero_std": 0.5, "loss": 0.0, "groups": 2.0},
    **{"completions/mean_length": 3.0, "completions/count": 4.0},
}


def test_findings_are_written_and_shown_once(tmp_path):
    console = Console(record=True, width=200, file=io.StringIO(), highlight=False)
    folder = RunFolder(tmp_path / "run")
    folder.create({})
    log = StepLog(folder, TextDisplay(4, console))
    found = [Finding("slow_weights", 0, "they are slow", "others")]
    log.watch(SimpleNamespace(findings=found))
    for step in range(1, 5):
        if step == 2:
            found.append(Finding("cut_off", 2, "'\\x1b[31m' was cut off", "more tokens"))
        log.on_step(METRICS | {"step": float(step)}, Rollout())
    lines = console.export_text().splitlines()
    assert lines[0] == "warning: they are slow. Try: others"
    assert [line for line in lines[1:] if line.startswith("warning")] == [
        "warning: step 2: '\\x1b[31m' was cut off. Try: more tokens"
    ]
    rows = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [row.get("warnings") for row in rows] == [None, [found[1].as_dict()], None, None]


def test_what_was_said_before_a_run_went_on_is_not_said_again(tmp_path):
    console = Console(record=True, width=200, file=io.StringIO(), highlight=False)
    folder = RunFolder(tmp_path / "run")
    folder.create({})
    log = StepLog(folder, TextDisplay(4, console))
    found = [Finding("cut_off", 2, "cut off", "more tokens")]
    log.watch(SimpleNamespace(findings=found), resumed=True)
    found.append(Finding("no_reward", 3, "no reward", "others"))
    log.on_step(METRICS | {"step": 3.0}, Rollout())
    said = [line for line in console.export_text().splitlines() if line.startswith("warning")]
    assert said == ["warning: step 3: no reward. Try: others"]
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert row["warnings"] == [found[1].as_dict()]


def test_the_evaluations_before_and_after_are_looked_at(tmp_path):
    console = Console(record=True, width=300, file=io.StringIO(), highlight=False)
    health = HealthWatch(SimpleNamespace(), create_strategy("ppo"), nn.Linear(2, 2))
    log = StepLog(RunFolder(tmp_path / "run"), TextDisplay(4, console))
    log.watch(health)
    for accuracy in (0.5, None, 0.1):
        log.on_evaluation("greedy", SimpleNamespace(accuracy=accuracy, examples=400))
    assert console.export_text().startswith(
        "warning: the greedy accuracy on held-out examples has fallen from 0.500 to 0.100"
    )
    assert [finding.name for finding in health.findings] == ["collapse"]


def test_the_answers_of_the_newest_evaluation_are_kept(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create({})
    keep = KeepAnswers(folder)
    for text in ("1", "2"):
        record = Record(3, "1+1=", "2")
        infos = [{"rewards": {}, "is_correct": text == "2"}]
        record.add(Trajectory(actions=[text], rewards=[1.0], infos=infos))
        keep.on_evaluate(None, Evaluation.of([record]))
    last = folder.read_last()
    assert [r.completions for r in last.records] == [["2"]] and last.accuracy == 1
