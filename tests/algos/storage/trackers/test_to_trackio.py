"""Trackio's own database, read back by its API."""

import math

import pytest

pytest.importorskip("trackio", reason="Trackio is not installed: extra trackio")

import trackio
from trackio.sqlite_storage import SQLiteStorage

from textenv.algos.storage.trackers.to_trackio import Trackio
from textenv.algos.storage.trackers.tracker import Run


def test_a_run_and_its_continuation_are_read_back(tmp_path, monkeypatch, request):
    monkeypatch.setenv("TRACKIO_PROJECT", project := f"test-{tmp_path.name}")
    monkeypatch.delenv("TRACKIO_SPACE_ID", raising=False)
    request.addfinalizer(lambda: trackio.delete_project(project, force=True))
    first = Trackio(Run(tmp_path, {"grpo": {"beta": 0.5}}))
    first.log({"step": 1.0, "reward": 0.25, "kl": math.inf}, 1)
    first.table("completions", [{"prompt": "1+1=", "completion": "**b**", "reward": 1.0}], 1)
    first.close(failed=False)
    second = Trackio(Run(tmp_path, {"grpo": {"beta": 0.5}}, resumed=True))
    second.log({"step": 2.0, "reward": 0.5}, 2)
    second.close(failed=False)
    (run,) = trackio.Api().runs(project)
    assert run.name == tmp_path.name and run.config["grpo.beta"] == 0.5
    rows = SQLiteStorage.get_logs(project, run.name, run_id=run.id)
    assert [(row["step"], row["reward"]) for row in rows if "reward" in row] == [
        (1, 0.25),
        (2, 0.5),
    ]
    assert rows[0]["kl"] == math.inf
    (table,) = [row["completions"] for row in rows if "completions" in row]
    assert table["_value"] == [{"prompt": "    1+1=", "completion": "    **b**", "reward": 1.0}]
