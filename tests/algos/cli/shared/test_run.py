"""A training run from its first evaluation to its summary."""

import io
import json
import os
import resource
import shutil
import signal
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from textenv.algos.cli.shared import run_folder
from textenv.algos.cli.shared.run import TrainingRun
from textenv.algos.cli.shared.run_folder import Picture, RunFolder
from textenv.algos.cli.shared.stopping import Stopped
from textenv.algos.config import read_toml
from textenv.algos.episodes.trajectory import Buffer, Trajectory
from textenv.algos.training.guard import NotFiniteError
from textenv.errors import ConfigError, StorageError


class Trainer:
    """Writes down what happens; its training takes 2.5 seconds, and ends as it is told."""

    config = SimpleNamespace(seed=11)
    has_ended = False

    def __init__(self, events, clock, error=None):
        self.events, self.error, self.clock = events, error, clock
        self.history = [{"step": 1.0, "reward": 0.5}]

    def train(self):
        self.events.append("train")
        self.clock(2.5)
        if self.error:
            raise self.error

    def stop(self):
        self.events.append("stop")

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
        return {"task": "sort"}

    console = Console(file=io.StringIO(), record=True, width=200, highlight=False)
    run = TrainingRun(
        **{
            "folder": RunFolder(tmp_path / "run"),
            "settings": {"algo": "none"},
            "trainer": Trainer(events, clock, error),
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


def test_a_disk_without_room_is_found_before_the_training(tmp_path, clock):
    run, events, _ = make_run(tmp_path, clock)
    large = np.broadcast_to(np.zeros(1, np.float32), (10**18,))  # of four bytes in memory
    run.trainer.state = lambda: SimpleNamespace(arrays={"x": large, "y": np.zeros(10**9 // 8)})
    said = r"checkpoint take 4000000001.00 GB, and the disk of .*run has [\d.]+ GB left: make room"
    with pytest.raises(ConfigError, match=said):
        run.carry_out()
    assert events == [] and not (tmp_path / "run").exists()


def summary_of(path):
    return json.loads((path / "summary.json").read_text())


def test_while_it_trains_the_summary_says_so(tmp_path, clock):
    """Which is all that a process that is killed leaves."""
    run, _, _ = make_run(tmp_path, clock)
    found = {}
    run.trainer.train = lambda: found.update(summary_of(tmp_path / "run"))
    run.carry_out()
    assert (found["state"], found["task"], found["seed"]) == ("running", "sort", 11)
    assert found["before"]["greedy"]["return"] == 1 and found["after"] is None
    assert summary_of(tmp_path / "run")["state"] == "finished"


@pytest.mark.parametrize(
    ("number", "code", "judged"),
    [(signal.SIGINT, 130, True), (signal.SIGTERM, 143, False), (signal.SIGHUP, 129, False)],
)
def test_a_signal_ends_it_after_the_step(tmp_path, clock, number, code, judged):
    """After Ctrl-C the model is evaluated; a system that ends a job does not wait for that."""
    run, events, console = make_run(tmp_path, clock, unit="steps")
    train = run.trainer.train

    def told():
        train()
        os.kill(os.getpid(), number)
        events.append("step done")
        run.trainer.history.append({"step": 2.0, "reward": 0.5})

    run.trainer.train = told
    with run.stops:
        assert run.carry_out() == code
    last = ["train", "stop", "step done", "display closes", "save", *(["judge"] * judged)]
    assert events[2:] == last
    summary = summary_of(tmp_path / "run")
    assert summary["state"] == "interrupted"
    assert summary["reason"] == f"{number.name} after 2 steps"
    assert (summary["after"] is not None) == judged
    assert "interrupted after 2 steps: saving what there is" in console.export_text()


def test_a_second_signal_ends_it_at_once(tmp_path, clock):
    run, events, _ = make_run(tmp_path, clock)

    def told():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        events.append("step done")

    run.trainer.train = told
    with run.stops:
        assert run.carry_out() == 143
    assert events[2:] == ["stop", "display closes", "save"]
    assert summary_of(tmp_path / "run")["reason"] == "SIGTERM after 1 updates"


def test_a_signal_while_the_model_is_saved_skips_the_evaluation(tmp_path, clock):
    run, events, _ = make_run(tmp_path, clock)
    save = run.trainer.save

    def told(folder):
        os.kill(os.getpid(), signal.SIGINT)
        save(folder)

    run.trainer.save = told
    with run.stops:
        assert run.carry_out() == 0
    assert events[-1] == "save" and (tmp_path / "run" / "model").is_dir()
    assert summary_of(tmp_path / "run")["after"] is None


def test_a_save_that_is_interrupted_leaves_a_summary(tmp_path, clock):
    run, _, _ = make_run(tmp_path, clock)
    run.trainer.save = lambda folder: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)]
    with run.stops, pytest.raises(Stopped):
        run.carry_out()
    assert summary_of(tmp_path / "run")["state"] == "finished"


def test_a_last_evaluation_that_fails_leaves_a_model_and_a_summary(tmp_path, clock):
    run, events, _ = make_run(tmp_path, clock)
    judge = run.judge

    def broken():
        if "train" in events:
            raise ValueError("no reward")
        return judge()

    run.judge = broken
    with pytest.raises(ValueError, match="no reward"):
        run.carry_out()
    summary = summary_of(tmp_path / "run")
    assert summary["state"] == "failed" and summary["after"] is None
    assert summary["reason"] == "the evaluation after the training: no reward"
    assert (tmp_path / "run" / "model").is_dir()


@pytest.mark.parametrize("lost", ["deleted", "full"])
def test_what_is_in_memory_goes_to_another_folder(tmp_path, clock, lost):
    """The run's folder is deleted, or its disk takes no more, while the second step is made."""
    run, _, console = make_run(tmp_path, clock, unit="steps")
    folder, train = run.folder, run.trainer.train
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def told():
        train()
        folder.add_metrics(run.trainer.history[0])
        run.trainer.history.append({"step": 2.0, "reward": 0.25})
        if lost == "deleted":
            shutil.rmtree(folder.path)
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (40, before[1]))
            monkeypatch.setattr(run.trainer, "save", full)
        folder.add_metrics(run.trainer.history[1])

    def full(place):
        resource.setrlimit(resource.RLIMIT_FSIZE, before)  # other disks have room
        if place.parent == folder.path:
            raise OSError(28, "No space left on device")
        place.mkdir()

    run.trainer.train = told
    with pytest.MonkeyPatch.context() as monkeypatch, folder, pytest.raises(StorageError):
        run.carry_out()
    spare = tmp_path / "run-rescued"
    assert (spare / "model").is_dir() and read_toml(spare / "config.toml") == {"algo": "none"}
    lines = (spare / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == run.trainer.history
    summary = summary_of(spare)
    assert summary["state"] == "failed" and summary["reason"].startswith("StorageError: ")
    said = " ".join(console.export_text().split())
    assert "cannot be written to" in said
    assert f"the run is in {spare}" in said


def test_a_model_that_is_saved_elsewhere_is_no_success(tmp_path, clock):
    run, _, console = make_run(tmp_path, clock)
    train = run.trainer.train
    run.trainer.train = lambda: (train(), shutil.rmtree(run.folder.path))
    with run.folder:
        assert run.carry_out() == 2
    summary = summary_of(tmp_path / "run-rescued")
    assert summary["state"] == "finished" and "run is gone" in summary["reason"]
    assert summary["after"]["greedy"]["return"] == 2
    assert console.export_text().splitlines()[-1].endswith(f"{tmp_path / 'run-rescued' / 'model'}")


def test_a_model_that_can_be_saved_nowhere_is_an_error(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(run_folder.Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(run_folder.tempfile, "gettempdir", lambda: str(tmp_path / "temp"))
    run, _, _ = make_run(tmp_path, clock)

    def full(folder):
        raise OSError(28, "No space left on device")

    run.trainer.save = full
    with pytest.raises(OSError, match="No space"):
        run.carry_out()
    summary = summary_of(tmp_path / "run")
    assert summary["state"] == "failed"
    assert summary["reason"].startswith("the model cannot be saved: [Errno 28] No space left")
    assert [place.name for place in tmp_path.iterdir()] == ["run"]


def test_the_batch_that_could_not_be_trained_on_is_saved(tmp_path, clock):
    from textenv.algos import load_rollout

    batch = Buffer([Trajectory(observations=["1+1="], actions=["3"], rewards=[0.5])])
    run, _, console = make_run(tmp_path, clock, NotFiniteError("5 steps were skipped", batch))
    with pytest.raises(NotFiniteError):
        run.carry_out()
    path = tmp_path / "run" / "not_finite.json"
    assert f"is in {path}" in console.export_text()
    [found] = load_rollout(path)
    assert (found.actions, found.rewards) == (["3"], [0.5])
    assert summary_of(tmp_path / "run")["reason"] == "NotFiniteError: 5 steps were skipped"


@pytest.mark.parametrize("ended", [False, True])
def test_a_run_that_goes_on_is_not_judged_again_before_it(tmp_path, clock, ended):
    """One that was killed in its last evaluation is evaluated, and not trained further."""
    run, events, console = make_run(tmp_path, clock, unit="steps", resumed=True)
    run.trainer.has_ended = ended
    figures = {"return": 7.0, "examples": 3}
    before = {"greedy": figures, "sampled": figures}
    run.folder.create({})
    run.folder.write_summary({"state": "interrupted", "before": before})
    assert run.carry_out() == 0
    assert events[-2:] == ["save", "judge"] and events.count("judge") == 1
    assert ("train" in events) == (not ended)
    assert summary_of(tmp_path / "run")["before"] == before
    said = console.export_text()
    assert "going on after 1 steps" in said and "before: return greedy 7.0" in said
