"""Logs to Weights & Biases, as the settings of wandb say: online, offline, to which server.

Without network nothing is lost in ``WANDB_MODE=offline``, after which ``wandb sync`` uploads it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from textenv.algos.storage.trackers.tracker import Row, Run, by_column

os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # which wandb would send to its makers

import wandb

_ID = "wandb-id.txt"
_OPENING, _CLOSING = 30, 120  # seconds that are waited for a server


class WandB:
    """Logs a run to the project ``textenv``, or to that of ``WANDB_PROJECT``.

    Args:
        run: the run. If it is resumed, wandb goes on with the same run; it takes no step twice.
    """

    def __init__(self, run: Run):
        file = run.folder / _ID
        known = file.read_text(encoding="utf-8").strip() if run.resumed and file.exists() else None
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", run.project),
            name=run.name,
            dir=str(run.folder),
            config=dict(run.config),
            id=known,
            resume="allow" if known else None,
            settings=wandb.Settings(
                console="off",  # what is printed stays here
                silent=run.quiet,
                init_timeout=_OPENING,
                finish_timeout=_CLOSING,
                finish_timeout_raises=True,
            ),
        )
        file.write_text(f"{self._run.id}\n", encoding="utf-8")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log the metrics of a step."""
        self._run.log(dict(metrics), step=step)

    def table(self, name: str, rows: Sequence[Row], step: int) -> None:
        """Log a table beside the metrics of its step."""
        columns = by_column(rows)
        data = [list(row) for row in zip(*columns.values())]
        self._run.log({name: wandb.Table(columns=list(columns), data=data)}, step=step)

    def close(self, failed: bool) -> None:
        """Upload what waits, and end the run."""
        self._run.finish(exit_code=int(failed))
