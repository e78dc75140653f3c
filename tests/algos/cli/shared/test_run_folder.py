"""The files of a run."""

import json

import pytest

from textenv.algos.cli.shared import run_folder
from textenv.algos.cli.shared.run_folder import Picture, RunFolder
from textenv.algos.config import read_toml
from textenv.errors import ConfigError


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
    assert mean[:10] == [[n, (n + 1) / 2] for n in range(1, 11)]
    assert mean[10:] == [[11, 6.5], [12, 7.5]]
    assert drawn["axes"].get_xlabel() == "optimizer step"
    assert drawn["axes"].get_title() == "a title"
    assert (tmp_path / "reward.png").read_bytes().startswith(b"\x89PNG")


def test_the_default_folder_is_named_for_the_run():
    path = RunFolder.default_path("sort")
    assert path.parts[0] == "runs" and path.name.startswith("sort-")
