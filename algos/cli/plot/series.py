"""Reads the metrics of runs and of comparisons, one column for each metric.

Shapes: P points of a run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from textenv.algos.cli.shared.escape import count
from textenv.algos.config import read_toml
from textenv.algos.evaluation.results import metrics_of_figures
from textenv.algos.storage.run_files import json_object
from textenv.errors import DataError, MissingFileError

_OF_A_RUN = ("seed", "out", "config")  # settings that differ between two runs of one experiment
_LARGEST = 1e150  # in size: a picture needs differences and squares that no infinity comes of
_COUNTS = ("step", "num_tokens", "time/total_timesteps")  # they are 0 before a training
_ARENAS = ("textenv.compare", "textenv.compare.strategies")


@dataclass(frozen=True)
class Series:
    """The metrics of one run."""

    folder: Path
    """Where it was read from."""
    name: str
    """What it is called in a legend: its folder's name, or the agent's in a comparison."""
    columns: Mapping[str, np.ndarray]
    """Metric -> (P,) float64; NaN where a line does not have it, or has no finite number, or
    one above 1e150 in size, which counts as infinite."""
    lost: Mapping[str, int] = field(default_factory=dict)
    """Metric -> how many of its numbers are not finite."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The settings that another seed of the same experiment shares; empty if they are not known."""
    skipped: int = 0
    """Lines that were cut off, or no JSON objects."""
    remark: str = ""
    """What is to be said of the run's evaluations; empty if nothing is."""


def read_runs(folders: Iterable[Path]) -> list[Series]:
    """Read the runs of these folders; one of a comparison has several.

    Raises:
        MissingFileError: for a folder that is not there, or has neither metrics nor results.
        DataError: for a folder without a single point, or a file that is something else.
    """
    return [series for folder in folders for series in _read(folder)]


def newest_run() -> Path:
    """The newest folder in ``runs/`` that has metrics.

    Raises:
        MissingFileError: if there is none.
    """
    found = sorted(Path("runs").glob("*/metrics.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    if not found:
        raise MissingFileError("there is no run in runs/: name the folder of a run to plot")
    return found[-1].parent


def metrics_of(found: Sequence[Series]) -> set[str]:
    """All metrics that any of the runs has."""
    return {name for series in found for name in series.columns}


def _read(folder: Path) -> list[Series]:
    if not folder.is_dir():
        raise MissingFileError(f"{folder} is not a folder: expected that of a run or a comparison")
    if (folder / "metrics.jsonl").is_file():
        return [_read_run(folder)]
    if (folder / "results.json").is_file():
        return _read_comparison(folder)
    raise MissingFileError(
        f"{folder} has neither metrics.jsonl nor results.json: it is no run, or one that has not "
        "made a step yet"
    )


def _read_run(folder: Path) -> Series:
    """The run of a folder; what is cut off at its end, while it is written, is left out."""
    path = folder / "metrics.jsonl"
    lines = path.read_bytes().splitlines()
    rows = [row for row in map(json_object, lines) if row is not None]
    if not rows:
        raise DataError(f"{path} holds no metrics yet: expected a JSON object a line")
    skipped = len(lines) - len(rows)
    settings = _settings(folder)
    summary = folder / "summary.json"
    found = json_object(summary.read_bytes()) if summary.is_file() else None
    before = before_training(found or {}, settings, rows)
    remark = other_examples(before, rows)
    rows = [before, *rows] if before else rows
    columns = _columns(rows)
    lost = {
        name: sum(_is_number(row.get(name)) and math.isnan(_finite(row[name])) for row in rows)
        for name in columns
    }
    _add_axes(columns)
    return Series(folder, folder.resolve().name, columns, lost, settings, skipped, remark)


def before_training(
    summary: Mapping[str, Any], settings: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """The evaluation before a training as a row of its metrics, for step 0.

    It has the metrics of the evaluations that were made while the model trained, and the counts
    that begin at 0.

    Args:
        summary: the content of ``summary.json``.
        settings: the settings by their dotted names. They say whether the evaluations during the
            training were of greedy answers or of sampled ones.
        rows: the rows of ``metrics.jsonl``.

    Returns:
        The row; empty if there was no such evaluation, or none during the training.
    """
    names = {name for row in rows for name in row}
    samples = [v for name, v in settings.items() if name.split(".")[-1] == "eval_samples"]
    kind = "greedy" if [str(each) for each in samples] == ["0"] else "sampled"
    before = summary.get("before")
    figures = before.get(kind) if samples and isinstance(before, Mapping) else None
    measured = metrics_of_figures(figures) if isinstance(figures, Mapping) else {}
    row = {name: value for name, value in measured.items() if name in names}
    return {**{name: 0.0 for name in _COUNTS if name in names}, **row} if row else {}


def other_examples(before: Mapping[str, float], rows: Sequence[Mapping[str, Any]]) -> str:
    """A remark for evaluations of which the one before a training had more or fewer examples."""
    during = [row["eval/examples"] for row in rows if _is_number(row.get("eval/examples"))]
    had = before.get("eval/examples")
    if had is None or not during or had == during[0]:
        return ""
    return f"the evaluation before the training had {had:g} examples, the later ones {during[0]:g}"


def _read_comparison(folder: Path) -> list[Series]:
    """The runs of agents or strategies that ``textenv compare`` made."""
    path = folder / "results.json"
    try:
        whole = json.loads(path.read_bytes())
        kind, version = whole["format"], whole["version"]
        if kind not in _ARENAS or version != 1:
            raise DataError(
                f"{path} has format {kind!r:.40}, version {version!r:.40}; this textenv reads "
                f"{' and '.join(_ARENAS)} of version 1"
            )
        agents = kind == _ARENAS[0]
        found = []
        for run in whole["runs"]:
            points = run["evaluations" if agents else "points"]
            rows = [_of_agent(p) if agents else _of_strategy(p) for p in points]
            name = run["agent" if agents else "strategy"]
            own = {"of": str(folder), "as": name}
            found.append(Series(folder, str(name), _columns(rows), settings=own))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is no comparison: {error!r:.200}") from error
    if not found:
        raise DataError(f"{path} holds no finished run yet")
    return found


def _of_agent(point: Mapping[str, Any]) -> dict[str, float]:
    return {
        "steps": point["steps"],
        "seconds": point["seconds"],
        "return": float(np.mean(point["returns"])),
    }


def _of_strategy(point: Mapping[str, Any]) -> dict[str, float]:
    return {
        "steps": point["steps"],
        "seconds": point["seconds"],
        "tokens": point["tokens"],
        "eval/accuracy": point["sampled"],
        "eval/greedy": point["greedy"],
    }


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    names = dict.fromkeys(name for row in rows for name, value in row.items() if _is_number(value))
    return {name: np.array([_finite(row.get(name)) for row in rows], np.float64) for name in names}


def _add_axes(columns: dict[str, np.ndarray]) -> None:
    """Add the axes that a run's metrics have under other names, or as parts of sums."""
    if "num_tokens" in columns:
        columns["tokens"] = columns["num_tokens"]
    # On control people count transitions, and on text optimizer steps.
    transitions = "time/total_timesteps" in columns and "num_tokens" not in columns
    steps = "time/total_timesteps" if transitions else "step"
    if steps in columns:
        columns["steps"] = columns[steps]
    if "step_time" in columns:  # evaluations are not in it
        columns["seconds"] = np.cumsum(np.nan_to_num(columns["step_time"]))


def _settings(folder: Path) -> dict[str, Any]:
    """A run's settings as one level of names, without those that only name the run."""
    try:
        table = read_toml(folder / "config.toml")
    except (MissingFileError, DataError):  # the run is drawn as one of its own
        return {}
    return {name: value for name, value in flat(table) if name.split(".")[-1] not in _OF_A_RUN}


def flat(table: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    """The settings of a table of TOML by their dotted names; lists as text."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", str(value) if isinstance(value, list) else value


def _is_number(value: Any) -> bool:
    """Whether a value is a number that a picture can have: an int may be too large for a float."""
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**63)


def _finite(value: Any) -> float:
    return value if _is_number(value) and abs(value) <= _LARGEST else math.nan


def said_of(series: Series) -> str:
    """What is to be said of lines that were left out; empty if none were."""
    if not series.skipped:
        return ""
    return f"{series.folder / 'metrics.jsonl'}: {count(series.skipped, 'line')} cut off, left out"
