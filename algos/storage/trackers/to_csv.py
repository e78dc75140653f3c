"""Writes metrics as ``progress.csv``, in the form of Stable-Baselines3's logger, and tables as CSV.

A row of ``progress.csv`` is a step; a metric that a step does not have is an empty cell. A metric
that comes up later gets a column at the end, and the rows before it an empty cell.

Tables hold what models and datasets wrote. A spreadsheet runs a cell that begins with ``=``, for
example, as a formula, quoted or not, and a formula may open addresses or start programs. Such a
text gets an apostrophe before it, as OWASP advises
(https://owasp.org/www-community/attacks/CSV_Injection). Numbers stay as they are, and so do texts
that are nothing but a number.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TextIO

from textenv.algos.storage.replacing import write_whole
from textenv.algos.storage.trackers.tracker import Row, Run

_STEP = "step"
_FORMULA = re.compile("[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")  # the last four are full-width
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


class CSV:
    """Writes CSV files into the run's folder.

    Args:
        run: the run. If it is resumed, the rows that are there stay, but for those of steps that
            are made again.
    """

    def __init__(self, run: Run):
        self._folder, self._resumed = run.folder, run.resumed
        self._last: float | None = None  # the metric "step", which may count what ``step`` does not
        self._files: dict[str, _File] = {}

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Append a row to ``progress.csv``."""
        if _STEP in metrics:
            self._last = metrics[_STEP]
        # What has no such metric, as an evaluation at the end, belongs to the last that has.
        self._file("progress").add({_STEP: step if self._last is None else self._last, **metrics})

    def table(self, name: str, rows: Sequence[Row], step: int) -> None:
        """Append rows to ``NAME.csv``, each with its step."""
        for row in rows:
            self._file(name.replace("/", "_")).add({_STEP: step, **row})

    def close(self, failed: bool) -> None:
        """Nothing waits to be written."""

    def _file(self, name: str) -> _File:
        if name not in self._files:
            self._files[name] = _File(self._folder / f"{name}.csv", self._resumed)
        return self._files[name]


class _File:
    """A CSV file whose columns may become more.

    Args:
        path: the file.
        keep: whether the rows that are there stay, up to the step of the first new one.
    """

    def __init__(self, path: Path, keep: bool):
        self._path = path
        self._columns: list[str] = []
        self._keep = keep and path.exists()
        self._began = False

    def add(self, row: Row) -> None:
        """Append a row; texts that a spreadsheet would run are not written as such."""
        row = {
            _inert(column): _inert(value) if isinstance(value, str) else value
            for column, value in row.items()
        }
        rows: list[Row] | None = None
        if not self._began:
            rows = self._before(float(row[_STEP] or 0)) if self._keep else []
            self._began = True
        new = [column for column in row if column not in self._columns]
        if new and rows is None:
            rows = self._read()
        self._columns += new
        if rows is None:
            with self._path.open("a", encoding="utf-8", newline="") as file:
                self._write_row(file, row)
        else:
            self._write([*rows, row])

    def _before(self, step: float) -> list[Row]:
        """The rows that are there of earlier steps."""
        rows = self._read()
        self._columns = list(dict.fromkeys(column for row in rows for column in row))
        return [row for row in rows if _number(row.get(_STEP)) < step]

    def _read(self) -> list[Row]:
        # A crash may have left the last row without its end, which may lie within a character.
        with self._path.open(encoding="utf-8", errors="replace", newline="") as file:
            return [row for row in csv.DictReader(file) if None not in row.values()]

    def _write(self, rows: Sequence[Row]) -> None:
        text = io.StringIO(newline="")
        csv.DictWriter(text, self._columns, lineterminator="\n").writeheader()
        for row in rows:
            self._write_row(text, row)
        write_whole(self._path, text.getvalue())

    def _write_row(self, file: TextIO, row: Row) -> None:
        # A carriage return ends a row for readers, but the writer does not quote it by itself.
        returns = any(isinstance(value, str) and "\r" in value for value in row.values())
        quoting: Literal[0, 1] = csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL
        csv.DictWriter(file, self._columns, lineterminator="\n", quoting=quoting).writerow(row)


def _inert(text: str) -> str:
    """A text that no spreadsheet takes for a formula: an apostrophe before it, if it is needed."""
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def _number(text: object) -> float:
    """A step; infinite if it is none."""
    try:
        return float(str(text))
    except ValueError:
        return math.inf
