"""Logs to MLflow: to ``mlflow.db`` in the working folder, or where ``MLFLOW_TRACKING_URI`` says.

``mlflow ui`` in the same folder shows it.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence

from textenv.algos.storage.trackers.tracker import Row, Run, by_column

# A server that is away would hold up every step; and MLflow reports how it is used.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

_ID = "mlflow-id.txt"
_MOST = 100  # metrics or parameters that are sent together
_LONGEST = 6_000  # characters of a parameter


class MLflow:
    """Logs a run to the experiment ``textenv``, or to that of ``MLFLOW_EXPERIMENT_NAME``.

    Args:
        run: the run. If it is resumed, MLflow goes on with the same run.
    """

    def __init__(self, run: Run):
        self._client = MlflowClient()
        file = run.folder / _ID
        if run.resumed and file.exists():
            self._id = file.read_text(encoding="utf-8").strip()
            self._client.update_run(self._id, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", run.project)
        found = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if found is None else found.experiment_id
        self._id = self._client.create_run(experiment, run_name=run.name).info.run_id
        file.write_text(f"{self._id}\n", encoding="utf-8")
        settings = [
            Param(_allowed(key), str(value)[:_LONGEST]) for key, value in run.flat_config().items()
        ]
        for start in range(0, len(settings), _MOST):
            self._client.log_batch(self._id, params=settings[start : start + _MOST])

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log the metrics of a step."""
        now = int(time.time() * 1000)
        sent = [Metric(_allowed(name), value, now, step) for name, value in metrics.items()]
        for start in range(0, len(sent), _MOST):
            self._client.log_batch(self._id, metrics=sent[start : start + _MOST])

    def table(self, name: str, rows: Sequence[Row], step: int) -> None:
        """Append rows to the table ``NAME.json`` among the artifacts."""
        columns = {"step": [step] * len(rows), **by_column(rows)}
        self._client.log_table(self._id, columns, f"{_allowed(name).replace('/', '_')}.json")

    def close(self, failed: bool) -> None:
        """Mark the run as finished, or as failed."""
        self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")


def _allowed(name: str) -> str:
    """A name in characters that MLflow allows."""
    return re.sub(r"[^\w\-./: ]", "_", name)
