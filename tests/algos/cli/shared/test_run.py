"""A training run from its first evaluation to its summary."""

import io
import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from rich.console import Console

from textenv.algos.cli.shared.run import TrainingRun
from textenv.algos.cli.shared.run_folder import Picture, RunFolder
from textenv.algos.config import read_toml


class Trainer:
    """Writes down what happens; its training ends as it is told."""

    config = SimpleNamespace(seed=11)

    def __init__(self, events, error=None):
        self.events, self.error = events, error
        self.history = [{"step": 1.0, "reward": 0.5}]

    def train(self):
        self.events.append("train")
        if self.error:
            raise self.error

    def save(self, folder):
        self.events.append("save")
        folder.mkdir()

    def describe(self):
        return "nothing"


def make_run(tmp_path, clock, error=None, **changes):
    events = []

    def judge():
        events.append("judge")
        figures = {"return": float(events.count("judge")), "examples": 3}
        return {"greedy": figures, "sampled": figures}

    @contextmanager
    def display():
        events.append("display opens")
        try:
            yield
        finally:
            events.append("display closes")

    def facts():
        clock(2.5)
        return {"task": "sort"}

    console = Console(file=io.StringIO(), record=True, width=200, highlight=False)
    run = TrainingRun(
        **{
            "folder": RunFolder(tmp_path / "run"),
            "settings": {"algo": "none"},
            "trainer": Trainer(events, error),
            "judge": judge,
            "console": console,
            "opening": ["this is begun"],
            "facts": facts,
            "picture": Picture("reward.png", "step", "reward", "a title"),
            "started": 1000.0,
            "display": display(),
            "machine": {"blas": "none"},
        }
        | changes
    )
    return run, events, console


def test_a_run_that_finishes(tmp_path, clock):
    run, events, console = make_run(tmp_path, clock, export=lambda: "exported too")
    assert run.carry_out() == 0
    assert events == ["judge", "display opens", "train", "display closes", "save", "judge"]
    path = tmp_path / "run"
    assert sorted(p.name for p in path.iterdir()) == [
        *("config.toml", "model", "reward.png", "summary.json")
    ]
    assert read_toml(path / "config.toml") == {"algo": "none"}
    summary = json.loads((path / "summary.json").read_text())
    assert summary.pop("versions")["numpy"]
    assert summary["before"]["greedy"]["return"] == 1 and summary["after"]["greedy"]["return"] == 2
    del summary["before"], summary["after"]
    assert summary == {
        **{"state": "finished", "task": "sort", "seconds": 2.5, "seed": 11, "blas": "none"}
    }
    lines = console.export_text().splitlines()
    assert lines[0] == "this is begun" and lines[1].startswith("before: return greedy 1.0")
    assert lines[2].startswith("after: return greedy 2.0") and lines[3] == "exported too"
    assert lines[4] == f"2.5 s; the run is in {path}, the model in {path / 'model'}"


def test_what_is_interrupted_is_saved_and_judged(tmp_path, clock):
    run, events, console = make_run(tmp_path, clock, KeyboardInterrupt(), unit="steps")
    assert run.carry_out() == 130
    assert events[-3:] == ["display closes", "save", "judge"]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["state"] == "interrupted" and summary["after"]["greedy"]["return"] == 2
    assert "interrupted after 1 steps: saving what there is" in console.export_text()


def test_what_fails_leaves_a_summary_and_what_it_had_learnt(tmp_path, clock):
    run, events, console = make_run(tmp_path, clock, FloatingPointError("no number"), unit="steps")
    with pytest.raises(FloatingPointError):
        run.carry_out()
    assert events[-2:] == ["display closes", "save"]
    assert "failed after 1 steps: the model so far is in" in console.export_text()
    assert (tmp_path / "run" / "model").is_dir()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["state"] == "failed" and summary["after"] is None


def test_what_fails_before_its_first_step_leaves_no_model(tmp_path, clock):
    run, events, _ = make_run(tmp_path, clock, ValueError("too long"))
    run.trainer.history.clear()
    with pytest.raises(ValueError, match="too long"):
        run.carry_out()
    assert events[-1] == "display closes" and not (tmp_path / "run" / "model").exists()


def test_a_model_that_cannot_be_saved_does_not_hide_why_the_training_failed(tmp_path, clock):
    run, _, console = make_run(tmp_path, clock, FloatingPointError("no number"), unit="steps")
    run.trainer.save = lambda folder: (_ for _ in ()).throw(OSError("disk full"))
    with pytest.raises(FloatingPointError, match="no number"):
        run.carry_out()
    assert "the model cannot be saved: disk full" in console.export_text()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["state"] == "failed"


def test_there_is_no_folder_before_the_first_evaluation_went_well(tmp_path, clock):
    def broken():
        raise ValueError("no reward")

    run, events, _ = make_run(tmp_path, clock, judge=broken)
    with pytest.raises(ValueError, match="no reward"):
        run.carry_out()
    assert events == [] and not (tmp_path / "run").exists()


def test_without_history_there_is_no_picture(tmp_path, clock):
    run, _, _ = make_run(tmp_path, clock)
    run.trainer.history = []
    run.carry_out()
    assert not (tmp_path / "run" / "reward.png").exists()


def test_an_interrupt_in_the_last_evaluation_leaves_a_whole_run(tmp_path, clock):
    run, events, console = make_run(tmp_path, clock)
    judge = run.judge

    def interrupted():
        if "train" in events:
            raise KeyboardInterrupt
        return judge()

    run.judge = interrupted
    assert run.carry_out() == 130
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["state"] == "interrupted" and summary["after"] is None
    assert (tmp_path / "run" / "model").is_dir()
    assert "after: not evaluated" in console.export_text()


def test_the_summary_has_the_best_evaluation_and_the_change(tmp_path, clock):
    run, _, console = make_run(tmp_path, clock)
    run.trainer.evaluations = SimpleNamespace(
        best="some", describe=lambda: "best evaluation: step 3", summary=lambda: {"step": 3}
    )
    run.judge.change = SimpleNamespace(describe=lambda: "better", as_dict=lambda: {"p_value": 0.5})
    run.carry_out()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["best"] == {"step": 3} and summary["change"] == {"p_value": 0.5}
    lines = console.export_text().splitlines()
    assert lines[3:5] == ["greedy answers before and after: better", "best evaluation: step 3"]
