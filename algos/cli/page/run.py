"""Reads the folder of a run for its page: settings, metrics, evaluations, and where rollouts are.

What is missing or cut off is left out, and said in a note: a run may be looked at while it is
written, or after it was killed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from textenv.algos.cli.plot.series import before_training, other_examples
from textenv.algos.config import read_toml
from textenv.algos.storage.run_files import json_object, recordings
from textenv.errors import DataError, MissingFileError

MOST_ROLLOUTS = 64
"""How many saved rollouts of a run go into its page."""

_EVALUATIONS = {"before": "before.json", "after": "after.json"}
_NO_CURVES = ("eval/best_step",)  # a counter, and in the summary
_TOTALS = ("num_tokens", "time/total_timesteps")  # what a run has seen by a step


@dataclass
class PageRun:
    """What the page shows of a run beside its rollouts."""

    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    """Each setting by its dotted name."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """The lines of ``metrics.jsonl`` that are whole."""
    before: dict[str, float] = field(default_factory=dict)
    """The evaluation before the training as metrics; empty if there are no others beside it."""
    summary: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """The evaluations' records by when they were made: ``"before"`` or ``"after"``."""
    rollouts: list[Path] = field(default_factory=list)
    """The saved rollouts to show, in the order in which they were made."""
    notes: list[str] = field(default_factory=list)
    """What is missing, broken or left out."""

    @property
    def steps(self) -> list[float]:
        """The step of each row; the epoch, or the line's number, if it has no finite one."""
        return [
            next((row[key] for key in ("step", "epoch") if _is_finite(row.get(key))), number)
            for number, row in enumerate(self.rows, 1)
        ]

    def step_of(self, version: int | None) -> float | None:
        """The step that trained on a rollout of this policy version; None if nobody knows."""
        if version is None:
            return None
        return next((step for step in self.steps if step > version), version + 1)

    def columns(self) -> dict[str, Any]:
        """The metrics as columns, and the three axes that they can be shown against.

        Returns:
            ``"axes"`` and ``"metrics"``: a list for each name, with an item for each row. An item
            is a number, None, or the text NaN, Infinity or -Infinity. If there was an evaluation
            before the training, it is a row of its own at step 0.
        """
        names = dict.fromkeys(
            name
            for row in self.rows
            for name, value in row.items()
            if _is_number(value) and name not in _NO_CURVES
        )
        first = [self.before] if self.before else []
        metrics = {name: [_plain(row.get(name)) for row in (*first, *self.rows)] for name in names}
        axes: dict[str, list[Any]] = {"steps": [*(0 for _ in first), *self.steps]}
        spent = [row["step_time"] for row in self.rows if _is_finite(row.get("step_time"))]
        if spent and len(spent) == len(self.rows):
            spent = [*(0.0 for _ in first), *spent]
            axes["seconds"] = [short(total) for total in np.cumsum(spent)]
        for name, axis in zip(_TOTALS, ("tokens", "transitions")):
            if self.rows and all(_is_finite(row.get(name)) for row in self.rows):
                axes[axis] = metrics[name]
        return {"axes": axes, "metrics": metrics}

    def warnings(self) -> list[dict[str, Any]]:
        """What was found to be wrong: by the summary, or by the lines as long as there is none."""
        found = self.summary.get("warnings")
        if not isinstance(found, list):
            parts = (row.get("warnings") for row in self.rows)
            found = [each for part in parts if isinstance(part, list) for each in part]
        return [
            {key: str(each.get(key, "")) for key in ("name", "step", "what", "remedy")}
            for each in found
            if isinstance(each, dict)
        ]


def read_run(path: Path) -> PageRun:
    """Read a run's folder, or one rollout's file.

    Raises:
        MissingFileError: if the path is not there.
        DataError: if the folder is no run's and holds no rollouts.
    """
    if not path.exists():
        raise MissingFileError(f"{path} is not there")
    run = PageRun(path)
    if path.is_file():
        run.rollouts = [path]
        return run
    rollouts = _rollouts(path)
    if not rollouts and not (path / "config.toml").is_file():
        raise DataError(
            f"{path} is not the folder of a run: it has no config.toml and no rollouts "
            "(name a folder that textenv train or textenv rollout wrote)"
        )
    run.config = _config(run)
    run.rows = _rows(run)
    run.summary = _object(run, "summary.json") or {}
    run.before = before_training(run.summary, run.config, run.rows)
    if remark := other_examples(run.before, run.rows):
        run.notes.append(remark)
    run.before.pop("eval/examples", None)  # no curve: it is one number, and the remark has it
    for when, name in _EVALUATIONS.items():
        found = _object(run, name) or {}
        records = found.get("records")
        if isinstance(records, list):
            run.answers[when] = [record for record in records if isinstance(record, dict)]
    run.rollouts = rollouts
    if len(rollouts) > MOST_ROLLOUTS:
        kept = np.unique(np.linspace(0, len(rollouts) - 1, MOST_ROLLOUTS).round().astype(int))
        run.rollouts = [rollouts[index] for index in kept]
        run.notes.append(
            f"the page has {len(run.rollouts)} of the {len(rollouts)} saved rollouts, evenly spread"
        )
    return run


def short(value: Any) -> Any:
    """A number with six significant digits, which are enough to read; others as `_plain` does."""
    return float(f"{value:.6g}") if _is_finite(value) else _plain(value)


def _rollouts(folder: Path) -> list[Path]:
    """The rollouts of a folder by the number in their names, transcripts last."""

    def order(path: Path) -> tuple[bool, int, str]:
        number = re.match(r"rollout_(\d+)_", path.name)
        return number is None, int(number[1]) if number else 0, path.name

    return sorted(recordings(folder), key=order)


def _config(run: PageRun) -> dict[str, Any]:
    file = run.path / "config.toml"
    if not file.is_file():
        return {}
    try:
        return dict(_dotted(read_toml(file)))
    except DataError as error:
        run.notes.append(str(error))
        return {}


def _dotted(table: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _dotted(value, f"{before}{name}.")
        else:
            yield before + name, value if isinstance(value, (bool, str)) else _text(value)


def _rows(run: PageRun) -> list[dict[str, Any]]:
    file = run.path / "metrics.jsonl"
    if not file.is_file():
        return []
    lines = file.read_bytes().splitlines()
    rows = [json_object(line) for line in lines]
    if lost := rows.count(None):
        run.notes.append(f"{file.name}: {lost} of {len(lines)} lines are cut off, or not objects")
    return [row for row in rows if row is not None]


def _object(run: PageRun, name: str) -> dict[str, Any] | None:
    """The object that a file holds; None, with a note if it is broken, if there is none."""
    file = run.path / name
    if not file.is_file():
        return None
    found = json_object(file.read_bytes())
    if found is None:
        run.notes.append(f"{name} is cut off, or not an object")
        return None
    named: dict[str, Any] = json.loads(json.dumps(found), parse_constant=str)  # NaN, by its name
    return named


def _text(value: Any) -> str:
    return json.dumps(value, default=str)


def _plain(value: Any) -> Any:
    """A number as JSON has it: NaN and infinities by the names that JavaScript knows them by."""
    if not _is_number(value):
        return None
    if _is_finite(value):
        return value
    return "Infinity" if value > 0 else "-Infinity" if value < 0 else "NaN"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    try:
        return _is_number(value) and math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False
