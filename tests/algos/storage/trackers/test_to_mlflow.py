"""MLflow's own store, read back by its client."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mlflow", reason="MLflow is not installed: extra mlflow")

from textenv.algos.storage.trackers.to_mlflow import MLflow
from textenv.algos.storage.trackers.tracker import Run

CONFIG = {"algo": "grpo", "grpo": {"beta": 0.5, **{f"x{i}": i for i in range(120)}}}


@pytest.fixture
def client(tmp_path, monkeypatch):
    """A client of a new database."""
    import mlflow

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return mlflow.MlflowClient()


def test_a_run_and_its_continuation_are_read_back(tmp_path, client):
    folder = tmp_path / "mine"
    folder.mkdir()
    first = MLflow(Run(folder, CONFIG))
    first.log({"reward": 0.25, "rewards/<lambda>/mean": 1.0, "kl": math.nan}, 1)
    first.log({f"m{i}": float(i) for i in range(250)}, 1)
    first.table("eval/examples", [{"prompt": "1+1=", "reward": 1.0}, {"prompt": "</script>"}], 1)
    first.close(failed=True)
    (run,) = client.search_runs([client.get_experiment_by_name("textenv").experiment_id])
    assert run.info.run_name == "mine" and run.info.status == "FAILED"
    assert len(run.data.params) == 122 and run.data.params["grpo.beta"] == "0.5"
    assert run.data.metrics["rewards/_lambda_/mean"] == 1 and run.data.metrics["m249"] == 249
    assert math.isnan(run.data.metrics["kl"])

    second = MLflow(Run(folder, CONFIG, resumed=True))
    second.log({"reward": 0.5}, 2)
    second.table("eval/examples", [{"prompt": "2+2=", "reward": 0.5}], 2)
    second.close(failed=False)
    (again,) = client.search_runs([run.info.experiment_id])
    assert again.info.run_id == run.info.run_id and again.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "reward")
    assert [(m.step, m.value) for m in history] == [(1, 0.25), (2, 0.5)]
    path = client.download_artifacts(run.info.run_id, "eval_examples.json", str(tmp_path))
    rows = json.loads(Path(path).read_text())
    assert rows["columns"] == ["step", "prompt", "reward"]
    assert [row[:2] for row in rows["data"]] == [[1, "1+1="], [1, "</script>"], [2, "2+2="]]


def test_importing_it_turns_telemetry_off():
    code = (
        "import textenv.algos.storage.trackers.to_mlflow\n"
        "from mlflow.telemetry.utils import is_telemetry_disabled\n"
        "assert is_telemetry_disabled()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
