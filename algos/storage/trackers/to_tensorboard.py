"""Writes TensorBoard's event files, without TensorFlow and without torch."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tomli_w
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from textenv.algos.storage.trackers.tracker import Row, Run, by_column, verbatim

FOLDER = "tensorboard"
"""The folder of the event files, in that of the run."""

_VERSION = "brain.Event:2"  # of the file format, which a file begins with


class TensorBoard:
    """Writes event files into ``tensorboard`` in the run's folder.

    ``tensorboard --logdir runs`` shows them. The settings are among the hyperparameters, and as a
    text; tables are texts.

    Args:
        run: the run. If it is resumed, TensorBoard forgets the steps that are made again.
    """

    def __init__(self, run: Run):
        folder = run.folder / FOLDER
        folder.mkdir(exist_ok=True)
        seconds, nanoseconds = divmod(
            time.time_ns(), 10**9
        )  # files are read in order of their names
        name = f"events.out.tfevents.{seconds:010d}.{nanoseconds:09d}.{os.getpid()}"
        # Written to at once and not by a thread, as TensorBoard's own writer does, whose errors are
        # tracebacks on the console.
        self._file = (folder / name).open("xb", buffering=0)
        self._records = RecordWriter(self._file)
        self._write(file_version=_VERSION)
        self._resumed = run.resumed
        if not run.resumed:
            self._add(hparams_pb(run.flat_config()), 0)
            self._add(text_pb("config", verbatim(tomli_w.dumps(dict(run.config)))), 0)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Write a scalar for each metric."""
        scalars = [Summary.Value(tag=tag, simple_value=x) for tag, x in metrics.items()]
        self._add(Summary(value=scalars), step)

    def table(self, name: str, rows: Sequence[Row], step: int) -> None:
        """Write a table as a text."""
        columns = by_column(rows)
        cells = [[verbatim(_shown(value)) for value in row] for row in zip(*columns.values())]
        self._add(text_pb(name, np.array([list(columns), *cells], dtype=object)), step)

    def close(self, failed: bool) -> None:
        """Close the file."""
        self._file.close()

    def _add(self, summary: Summary, step: int) -> None:
        if self._resumed:
            self._write(step=step, session_log=SessionLog(status=SessionLog.START))
            self._resumed = False
        self._write(step=step, summary=summary)

    def _write(self, **content: Any) -> None:
        self._records.write(Event(wall_time=time.time(), **content).SerializeToString())


def _shown(value: str | float | None) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)
