"""Makes curves of runs, with their intervals: several seeds of one experiment become one curve.

Shapes: P points of a run or a curve, R runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from textenv.algos.cli.plot.series import Series, said_of
from textenv.algos.cli.shared.escape import count, one_line
from textenv.algos.compare.statistics import learning_curve
from textenv.errors import DataError

MEAN_OF = 10
"""A metric of every update is noisy: its curve is the mean of so many updates."""

_POINTS = 200  # of a curve of several runs, at most
_DIFFERING = 2  # settings that a label names; if more differ, the folders' names say it
_FEWEST_CUT = 4  # runs of which the interquartile mean leaves any out
# The 97.5% quantile of Student's t with 9 degrees of freedom, for the mean of ten.
_T = 2.2621571628540993


@dataclass(frozen=True)
class Line:
    """A curve of a picture; each array has shape (P,)."""

    label: str
    x: np.ndarray
    middle: np.ndarray
    low: np.ndarray | None = None
    """The lower end of the 95% interval; None if there is none."""
    high: np.ndarray | None = None
    faint: tuple[np.ndarray, np.ndarray] | None = None
    """The points that the curve is the mean of."""
    runs: int = 1
    band: str = ""
    """What the interval is, in words."""


def lines_of(
    found: Sequence[Series], x: str, y: str, seed: int = 0
) -> tuple[list[Line], list[str]]:
    """The curves of some runs.

    Args:
        found: the runs. Those of equal settings become one curve.
        x: the metric across.
        y: the metric up.
        seed: seed of the bootstrap.

    Returns:
        The curves, and what is to be said about what they leave out.

    Raises:
        DataError: if no run has a point.
    """
    notes = [said for series in found if (said := said_of(series))]
    if y.startswith("eval/"):
        notes += [f"{series.name}: {series.remark}" for series in found if series.remark]
    groups: dict[str, list[tuple[Series, np.ndarray]]] = {}
    for number, series in enumerate(found):
        if lost := series.lost.get(y):
            notes.append(f"{series.name}: {count(lost, 'value')} of {y} not finite, left out")
        rows = _rows(series, x, y)
        if not len(rows):
            notes.append(f"{series.name} has no {y} over {x}, left out")
            continue
        key = repr(sorted(series.settings.items())) if series.settings else f"alone {number}"
        groups.setdefault(key, []).append((series, rows))
    if not groups:
        raise DataError(f"no run has a finite point of {y} over {x}")
    labels = _labels([[series for series, *_ in group] for group in groups.values()])
    lines = []
    for label, group in zip(labels, groups.values()):
        several = None
        if len(group) > 1:
            points = [(each.columns[x][rows], each.columns[y][rows]) for each, rows in group]
            several = _line_of_several(label, points, seed)
            if several is None:
                notes.append(f"{label}: its runs share no stretch of {x}, so each is a curve")
        if several is not None:
            lines.append(several)
        elif len(group) == 1:
            lines.append(_line_of_one(label, *group[0], x, y))
        else:
            lines += [_line_of_one(one_line(each.name), each, rows, x, y) for each, rows in group]
    return lines, notes


def _rows(series: Series, x: str, y: str) -> np.ndarray:
    """The points of a run that have both metrics, in the order of x."""
    across, up = series.columns.get(x), series.columns.get(y)
    if across is None or up is None:
        return np.zeros(0, np.int64)
    rows = np.flatnonzero(np.isfinite(up) & np.isfinite(across))
    return rows[np.argsort(across[rows], kind="stable")]


def _line_of_one(label: str, series: Series, rows: np.ndarray, x: str, y: str) -> Line:
    """The curve of one run: with the interval that it measured, or as a mean of ten updates."""
    places, values = series.columns[x][rows], series.columns[y][rows]
    low, high = (series.columns.get(f"{y}_{end}") for end in ("low", "high"))
    if low is not None and high is not None and np.isfinite([low[rows], high[rows]]).all():
        band = "95% interval of each evaluation"
        return Line(label, places, values, low[rows], high[rows], band=band)
    if len(values) < 2 * MEAN_OF:
        return Line(label, places, values)
    windows = np.lib.stride_tricks.sliding_window_view(values, MEAN_OF)  # (P - 9, 10)
    means = windows.mean(axis=1)
    half = _T * windows.std(axis=1, ddof=1) / math.sqrt(MEAN_OF)
    return Line(
        label,
        np.lib.stride_tricks.sliding_window_view(places, MEAN_OF).mean(axis=1),
        means,
        means - half,
        means + half,
        (places, values),
        band=f"mean of {MEAN_OF} updates and its 95% interval",
    )


def _line_of_several(
    label: str, runs: list[tuple[np.ndarray, np.ndarray]], seed: int
) -> Line | None:
    """The curve of several runs, over the stretch that all of them have; None if there is none."""
    first, last = max(x[0] for x, _ in runs), min(x[-1] for x, _ in runs)
    if first > last:
        return None
    x = np.unique(np.concatenate([places for places, _ in runs]))
    x = x[(x >= first) & (x <= last)]
    if len(x) > _POINTS:
        x = np.linspace(first, last, _POINTS)
    curve = learning_curve(runs, x, seed)
    mean = "interquartile mean" if len(runs) >= _FEWEST_CUT else "mean"
    band = f"{mean} of {len(runs)} runs and its 95% interval"
    return Line(label, x, curve.middle, curve.low, curve.high, runs=len(runs), band=band)


def _labels(groups: Sequence[Sequence[Series]]) -> list[str]:
    """A name for each group: what its settings have of their own, or the name of its folder."""
    settings = [group[0].settings for group in groups]
    names = list(dict.fromkeys(name for each in settings for name in each))
    differing = [n for n in names if len({repr(each.get(n)) for each in settings}) > 1]
    by_settings = len(groups) > 1 and all(settings) and 0 < len(differing) <= _DIFFERING
    labels = []
    for group in groups:
        own = group[0].settings
        label = _said(own, differing) if by_settings else group[0].name
        seeds = f" ({len(group)} seeds)" if len(group) > 1 else ""
        labels.append(one_line(label)[:80] + seeds)
    return labels


def _said(settings: Mapping[str, Any], names: Sequence[str]) -> str:
    if names == ["as"] or names == ["of", "as"]:  # of comparisons
        return str(settings["as"])
    return ", ".join(f"{name.split('.')[-1]} {settings.get(name, 'unset')}" for name in names)
