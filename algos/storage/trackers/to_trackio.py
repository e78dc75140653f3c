"""Logs to Trackio, which keeps runs on this machine; ``trackio show`` shows them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import trackio

from textenv.algos.storage.trackers.tracker import Row, Run, by_column, verbatim

_RESERVED = ("step", "project", "run", "timestamp", "time", "metrics")  # names of its own


class Trackio:
    """Logs a run to the project ``textenv``, or to that of ``TRACKIO_PROJECT``.

    Args:
        run: the run. If it is resumed, Trackio goes on with the run of this name.
    """

    def __init__(self, run: Run):
        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", run.project),
            name=run.name,
            config=run.flat_config(),
            resume="allow" if run.resumed else "never",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log the metrics of a step."""
        shown = {name: value for name, value in metrics.items() if name not in _RESERVED}
        self._run.log(shown, step=step)

    def table(self, name: str, rows: Sequence[Row], step: int) -> None:
        """Log a table, whose texts Trackio takes for Markdown."""
        columns = by_column(rows)
        data = [
            [verbatim(value) if isinstance(value, str) else value for value in row]
            for row in zip(*columns.values())
        ]
        self._run.log({name: trackio.Table(columns=list(columns), data=data)}, step=step)

    def close(self, failed: bool) -> None:
        """Write what waits."""
        trackio.finish()  # without this one it would say so again at the exit
