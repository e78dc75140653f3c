"""The files of a run."""

import json
import os
import resource
import shutil
from pathlib import Path

import pytest

from textenv.algos.cli.shared import run_folder
from textenv.algos.cli.shared.run_folder import Picture, RunFolder, spare_folders
from textenv.algos.config import read_toml
from textenv.algos.evaluation.results import Evaluation, Record
from textenv.errors import ConfigError, DataError, StorageError


@pytest.mark.parametrize("there", ["nothing", "an empty folder"])
def test_a_folder_appears_when_it_is_created(tmp_path, there):
    path = tmp_path / "deep" / "run"
    if there != "nothing":
        path.mkdir(parents=True)
    folder = RunFolder(path)
    assert path.exists() == (there != "nothing")
    folder.create({"grpo": {"max_steps": 3, "strategy": ["dapo"]}})
    assert read_toml(path / "config.toml") == {"grpo": {"max_steps": 3, "strategy": ["dapo"]}}
    assert (folder.rollouts, folder.model) == (path / "rollouts", path / "model")


def test_what_is_there_is_left_alone(tmp_path):
    (tmp_path / "mine").touch()
    for path in (tmp_path, tmp_path / "mine"):
        with pytest.raises(ConfigError, match="choose another --out"):
            RunFolder(path)
    with pytest.raises(ConfigError, match=r"below cannot be a folder, since .*mine is a file"):
        RunFolder(tmp_path / "mine" / "below")


def test_metrics_are_added_line_by_line(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create({})
    for step in (1, 2):
        folder.add_metrics({"step": step, "reward": 0.5})
    lines = (folder.path / "metrics.jsonl").read_text().splitlines()
    assert list(map(json.loads, lines)) == [{"step": 1, "reward": 0.5}, {"step": 2, "reward": 0.5}]


def test_a_summary_appears_whole(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "run")
    folder.create({})
    folder.write_summary({"state": "finished"})

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_folder.os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        folder.write_summary({"state": "other"})
    assert json.loads((folder.path / "summary.json").read_text()) == {"state": "finished"}


def test_a_picture_has_each_value_and_the_mean_of_the_last_ten(tmp_path, monkeypatch):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    drawn = {}
    monkeypatch.setattr(plt, "close", lambda figure: drawn.update(axes=figure.axes[0]))
    folder = RunFolder(tmp_path)
    history = [{"step": float(n), "reward": float(n)} for n in range(1, 13)]
    history.insert(3, {"step": 99.0})  # a step without it
    folder.draw(Picture("reward.png", "step", "reward", "a title"), history)
    each, mean = (line.get_xydata().tolist() for line in drawn["axes"].lines)
    assert each == [[n, n] for n in range(1, 13)]
    assert mean == [[10, 5.5], [11, 6.5], [12, 7.5]]
    assert drawn["axes"].get_xlabel() == "optimizer step"
    assert drawn["axes"].get_title() == "a title"
    assert (tmp_path / "reward.png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_of_a_short_run_has_no_mean_and_no_half_steps(tmp_path, monkeypatch):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    drawn = {}
    monkeypatch.setattr(plt, "close", lambda figure: drawn.update(axes=figure.axes[0]))
    history = [{"step": float(n), "reward": n / 7} for n in range(1, 4)]
    RunFolder(tmp_path).draw(Picture("reward.png", "step", "reward", "short"), history)
    assert len(drawn["axes"].lines) == 1
    low, high = drawn["axes"].get_xlim()
    ticks = [tick for tick in drawn["axes"].get_xticks() if low <= tick <= high]
    assert ticks == [1, 2, 3]


@pytest.mark.parametrize("there", ["nothing", "an empty folder"])
def test_a_folder_is_taken_by_one_run_alone(tmp_path, there):
    path = tmp_path / "deep" / "run"
    if there != "nothing":
        path.mkdir(parents=True)
    others = [RunFolder(path), RunFolder(path)]  # which began before it was taken
    with RunFolder(path) as folder:
        for other in others:
            with pytest.raises(ConfigError, match=r"another run writes to .*choose another --out"):
                other.__enter__()
        folder.create({})
    for other in others:
        with pytest.raises(ConfigError, match="is there already and not an empty folder"):
            other.__enter__()
    assert [place.name for place in path.iterdir()] == ["config.toml"]


def test_a_run_that_does_not_begin_leaves_no_folder(tmp_path):
    with RunFolder(tmp_path / "deep" / "run") as folder:
        assert folder.path.is_dir()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    with RunFolder(tmp_path / "mine"):
        pass
    assert [place.name for place in tmp_path.iterdir()] == ["mine"]  # it was there before


def test_a_folder_that_cannot_be_written_to_is_found_at_once(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"^/proc/run cannot be written to \(.*choose another"):
        RunFolder(Path("/proc/run")).__enter__()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_folder.os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        RunFolder(tmp_path / "run").__enter__()
    assert list(tmp_path.iterdir()) == []


def test_two_runs_of_one_second_have_two_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = tmp_path / "runs" / "sort-now"
    monkeypatch.setattr(RunFolder, "default_path", lambda name: one)
    folders = [RunFolder.named(None, "sort") for _ in range(3)]
    with folders[0], folders[1], folders[2]:
        for folder in folders:
            folder.create({})
    assert [f.path.name for f in folders] == ["sort-now", "sort-now-2", "sort-now-3"]
    assert RunFolder.named(None, "sort").path.name == "sort-now-4"
    assert RunFolder.named(tmp_path / "mine", "sort").path == tmp_path / "mine"


def test_a_run_goes_on_in_its_folder_alone(tmp_path):
    with pytest.raises(ConfigError, match=r"run is not the folder of a run: it has no config.toml"):
        RunFolder(tmp_path / "run", resumed=True)
    with RunFolder(tmp_path / "run") as folder:
        folder.create({"algo": "none"})
        with pytest.raises(ConfigError, match=r"another run writes to .*wait for its end"):
            RunFolder(tmp_path / "run", resumed=True).__enter__()
    with RunFolder(tmp_path / "run", resumed=True) as folder:
        pass
    assert read_toml(tmp_path / "run" / "config.toml") == {"algo": "none"}


@pytest.mark.parametrize("lost", ["gone", "replaced"])
def test_a_folder_that_is_lost_on_the_way_is_noticed(tmp_path, lost):
    with RunFolder(tmp_path / "run") as folder:
        folder.create({})
        shutil.rmtree(folder.path)
        if lost == "replaced":
            (tmp_path / "run").mkdir()
        for write in (folder.add_metrics, folder.write_summary):
            with pytest.raises(StorageError, match=f"the run's folder .*run (is|was) {lost}"):
                write({"step": 1})
    assert list(tmp_path.glob("run/*")) == []


def test_a_line_for_which_there_is_no_room_is_not_half_written(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create({})
    folder.add_metrics({"step": 1})
    whole = (folder.path / "metrics.jsonl").read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 5, before[1]))
    try:
        with pytest.raises(StorageError, match=r"metrics.jsonl cannot be written to: "):
            folder.add_metrics({"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (folder.path / "metrics.jsonl").read_bytes() == whole
    folder.add_metrics({"step": 2})
    assert (folder.path / "metrics.jsonl").read_bytes() == whole + b'{"step": 2}\n'


def test_the_metrics_of_a_run_that_goes_on_are_those_of_its_history(tmp_path):
    """Lines that are there stay; those beyond it go; those that were lost come back."""
    folder = RunFolder(tmp_path / "run")
    folder.create({})
    path = folder.path / "metrics.jsonl"
    rows = [{"step": float(n), "reward": n / 3} for n in range(1, 6)]
    for row in rows:
        folder.add_metrics(row | {"warnings": [row["step"]]})
    lines = path.read_bytes().splitlines(keepends=True)
    folder.keep_metrics(rows[:3])
    assert path.read_bytes() == b"".join(lines[:3])
    path.write_bytes(b"".join(lines[:2]) + lines[2][:9])
    folder.keep_metrics(rows[:4])
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert found == [*map(json.loads, lines[:2]), *rows[2:4]]
    with pytest.raises(DataError, match=r"line 1: expected step 2.0, .* got 1.0"):
        folder.keep_metrics(rows[1:])
    assert path.read_text().count("\n") == 4


def test_what_was_answered_first_is_kept_for_a_run_that_goes_on(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.read_first() is None and folder.read_summary() == {}
    records = []
    for number in range(2):
        record = Record(number + 7, f"{number}+1=", str(number + 1))
        record.completions.append("1")
        record.answers.append("1")
        record.rewards.append(float(number == 0))
        record.components.append({"correct": float(number == 0)})
        record.correct.append(number == 0)
        record.lengths.append(2)
        record.truncated.append(False)
        records.append(record)
    first = Evaluation.of(records, 3)
    folder.write_first(first)
    assert folder.read_first() == first and folder.read_first().records == first.records
    folder.write_last(first)
    assert (tmp_path / "after.json").read_bytes() == (tmp_path / "before.json").read_bytes()
    for text in ('{"records": [{}]}', "[" * 5000 + "]" * 5000):
        (tmp_path / "before.json").write_text(text)
        with pytest.raises(DataError, match=r"before.json is broken"):
            folder.read_first()
    (tmp_path / "summary.json").write_text("[" * 5000 + "]" * 5000)
    assert folder.read_summary() == {}


def test_no_file_of_a_run_is_written_through_a_link(tmp_path):
    """A run of somebody else may hold links to anything that this user has."""
    path = tmp_path / "run"
    path.mkdir()
    names = ("config.toml", "metrics.jsonl", "summary.json", "before.json", "after.json", ".trial")
    (tmp_path / "precious").write_text("kept")
    for name in names:
        (path / name).symlink_to(tmp_path / "precious")
    with RunFolder(path, resumed=True) as folder:
        folder.create({"a": 1})
        folder.keep_metrics([{"step": 1}])
        folder.add_metrics({"step": 2})
        folder.write_summary({"state": "finished"})
    assert (tmp_path / "precious").read_text() == "kept"
    assert folder.read_summary() == {"state": "finished"}
    assert (path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'


def test_there_is_a_spare_folder_near_and_others_far(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder.Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(run_folder.tempfile, "gettempdir", lambda: str(tmp_path / "temp"))
    (tmp_path / "runs" / "sort-rescued").mkdir(parents=True)
    found = [folder.path.relative_to(tmp_path) for folder in spare_folders(tmp_path / "runs/sort")]
    assert list(map(os.fspath, found)) == [
        *("runs/sort-rescued-2", "home/sort-rescued", "temp/sort-rescued")
    ]


def test_the_default_folder_is_named_for_the_run():
    path = RunFolder.default_path("sort")
    assert path.parts[0] == "runs" and path.name.startswith("sort-")


def test_rollouts_of_steps_that_are_made_again_go_with_their_inspections(tmp_path):
    for folder, ending in (("rollouts", "json"), ("inspection", "jsonl.gz")):
        (tmp_path / folder).mkdir()
        for number in (0, 1, 2, 10):
            (tmp_path / folder / f"rollout_{number}_20260101_000000.{ending}").write_text("")
    (tmp_path / "config.toml").write_text("")
    RunFolder(tmp_path, resumed=True).keep_rollouts(2)
    left = sorted(path.name.split("_")[1] for path in tmp_path.glob("*/rollout_*"))
    assert left == ["0", "0", "1", "1"]
