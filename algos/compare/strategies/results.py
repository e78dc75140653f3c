"""The results of a comparison of rollout strategies, over generated tokens and over seconds.

Shapes: R runs, P points of a curve, B draws of a bootstrap.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from textenv.algos.compare.statistics import Curve, bootstrap_interval, learning_curve, mean_score

BASELINE = "plain"
"""The strategy without parts, which the others are compared with."""
GAIN = 0.95
"""The share of the baseline's gain that a run is timed to."""
_POINTS = 60  # points of a curve in the picture
_DRAWS = 10_000  # draws of the bootstrap of a ratio


@dataclass(frozen=True)
class Point:
    """An evaluation in the course of a run."""

    tokens: int
    """Tokens generated so far."""
    seconds: float
    """Seconds of training so far, without those of evaluations."""
    steps: int
    """Optimizer steps so far; a rollout without anything to learn from counts as one."""
    sampled: float
    """Share of right answers at temperature 1; mean reward if the task has no verifier."""
    greedy: float
    """The same for greedy answers."""


@dataclass(frozen=True)
class StrategyRun:
    """One strategy, trained from one seed."""

    strategy: str
    seed: int
    learning_rate: float
    points: tuple[Point, ...]
    """In order: the first before the training, the last at the first step that spent the budget."""
    totals: dict[str, float]
    """Sums over the steps: the entries of `counts.summarize`, and ``trajectories``."""

    @property
    def last(self) -> Point:
        """The evaluation at the end."""
        return self.points[-1]


@dataclass(frozen=True)
class Try:
    """A learning rate that was tried for a strategy."""

    strategy: str
    learning_rate: float
    accuracy: float
    """Accuracy of sampled answers at the end, on the validation examples."""
    tokens: int
    seconds: float


@dataclass
class StrategyComparison:
    """A comparison, with the tries and runs made so far."""

    settings: dict[str, Any]
    machine: dict[str, Any]
    strategies: dict[str, str]
    """Name -> a description in words."""
    tries: list[Try] = field(default_factory=list)
    runs: list[StrategyRun] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The task and its settings."""
        kwargs = self.settings["env_kwargs"]
        name = kwargs.get("task") or kwargs.get("dataset") or "arithmetic"
        levels = ", ".join(f"{k}={v}" for k, v in kwargs.get("task_kwargs", {}).items())
        return f"{name} ({levels})" if levels else str(name)

    def learning_rate(self, name: str) -> float | None:
        """The best learning rate of a strategy, first among equals; None if tries are missing."""
        grid = self.settings["learning_rates"]
        if len(grid) == 1:
            return grid[0]
        found = {t.learning_rate: t.accuracy for t in self.tries if t.strategy == name}
        return max(grid, key=found.__getitem__) if found.keys() >= set(grid) else None

    def runs_of(self, name: str) -> list[StrategyRun]:
        """The runs of a strategy, in the order of their seeds."""
        return sorted((run for run in self.runs if run.strategy == name), key=lambda r: r.seed)

    def curve(self, name: str, unit: str) -> Curve:
        """Sampled accuracy over ``"tokens"`` or ``"seconds"``, to the end of the shortest run."""
        runs = [_curve_of(run, unit) for run in self.runs_of(name)]
        x = np.linspace(0, min(places[-1] for places, _ in runs), _POINTS)
        return learning_curve(runs, x, statistic=mean_score)

    def threshold(self) -> float | None:
        """The accuracy at `GAIN` of the baseline's gain; None if it gained nothing."""
        runs = self.runs_of(BASELINE)
        if not runs:
            return None
        first = float(np.mean([run.points[0].sampled for run in runs]))
        last = float(np.mean([run.last.sampled for run in runs]))
        return first + GAIN * (last - first) if last > first else None

    def summary(self) -> dict[str, dict[str, Any]]:
        """Figures of each strategy's runs, for strategies that have any."""
        names = [name for name in self.strategies if self.runs_of(name)]
        return {name: self._summary_of(name) for name in names}

    def _summary_of(self, name: str) -> dict[str, Any]:
        runs = self.runs_of(name)
        finals = _finals(runs)
        found: dict[str, Any] = {
            "learning_rate": runs[0].learning_rate,
            "runs": len(runs),
            "accuracy": float(finals.mean()),
            "interval": bootstrap_interval(mean_score, finals),
            "greedy": float(np.mean([run.last.greedy for run in runs])),
            "seconds": float(np.median([run.last.seconds for run in runs])),
            "steps": float(np.mean([run.last.steps for run in runs])),
            "totals": _mean_totals(runs),
        }
        base = self.runs_of(BASELINE)
        if base and name != BASELINE:
            theirs = _finals(base)
            found["difference"] = {
                "value": float(finals.mean() - theirs.mean()),
                "interval": bootstrap_interval(_difference, finals, theirs),
                "worse": bool(theirs.mean() > found["interval"].high),
            }
        threshold = self.threshold()
        if threshold is not None:
            found["reach"] = _reach(runs, base, threshold)
        return found


def crossing(x: np.ndarray, y: np.ndarray, threshold: Any) -> np.ndarray:
    """The places at which curves first reach a threshold, on straight lines between their points.

    Args:
        x: the places of the points (P,), ascending.
        y: the curves (..., P).
        threshold: the threshold of each curve (...).

    Returns:
        The places (...); inf for a curve that never reaches its threshold.

    Example:
        >>> crossing(np.array([0.0, 10.0, 20.0]), np.array([0.0, 0.5, 0.4]), 0.2).item()
        4.0
    """
    wanted = np.asarray(threshold, np.float64)[..., None]  # (..., 1)
    above = y >= wanted
    first = above.argmax(-1)[..., None]
    before = np.maximum(first - 1, 0)
    low, high = np.take_along_axis(y, before, -1), np.take_along_axis(y, first, -1)
    share = (wanted - low) / np.where(high > low, high - low, 1.0)
    place = np.where(first > 0, x[before] + share * (x[first] - x[before]), x[0])
    return np.where(above.any(-1), place[..., 0], np.inf)


def _reach(runs: list[StrategyRun], base: list[StrategyRun], threshold: float) -> dict[str, Any]:
    """When the mean of some runs, and each of them alone, first reached the threshold."""
    found: dict[str, Any] = {"threshold": threshold, "by_seed": {}}
    for unit in ("tokens", "seconds"):
        x, y = _together(runs, unit)  # (P,), (R, P)
        for run, place in zip(runs, crossing(x, y, np.full(len(runs), threshold))):
            found["by_seed"].setdefault(str(run.seed), {})[unit] = _finite(place)
        mine = float(crossing(x, y.mean(0), threshold))
        base_x, base_y = _together(base, unit)
        theirs = float(crossing(base_x, base_y.mean(0), threshold))
        found[unit] = _finite(mine)
        found[f"{unit}_ratio"] = _finite(mine / theirs)
        found[f"{unit}_ratio_interval"] = (
            None if runs == base else _ratio_interval((x, y), (base_x, base_y))
        )
    found["reached"] = sum(at["tokens"] is not None for at in found["by_seed"].values())
    return found


def _ratio_interval(
    mine: tuple[np.ndarray, np.ndarray], base: tuple[np.ndarray, np.ndarray]
) -> list[float | None]:
    """95% interval of the ratio of two crossings, by drawing the runs of each side again.

    The threshold follows from the baseline's drawn runs. An end without a bound is None.
    """
    rng = np.random.default_rng(0)
    means = []
    for _, y in (mine, base):
        picked = rng.integers(len(y), size=(_DRAWS, len(y)))
        counts = np.stack([(picked == run).sum(1) for run in range(len(y))], 1)  # (B, R)
        means.append(counts @ y / len(y))  # (B, P)
    first, last = means[1][:, 0], means[1][:, -1]
    threshold = first + GAIN * (last - first)
    at, theirs = crossing(mine[0], means[0], threshold), crossing(base[0], means[1], threshold)
    ratios = np.where(theirs > 0, at / np.where(theirs > 0, theirs, 1.0), np.inf)
    return [_finite(v) for v in np.percentile(ratios, [2.5, 97.5], method="nearest")]


def _together(runs: list[StrategyRun], unit: str) -> tuple[np.ndarray, np.ndarray]:
    """Runs at all places at which one of them was evaluated: places (P,), accuracies (R, P).

    After its end a run keeps its last accuracy.
    """
    curves = [_curve_of(run, unit) for run in runs]
    x = np.unique(np.concatenate([places for places, _ in curves]))
    return x, np.stack([np.interp(x, *curve) for curve in curves])


def _curve_of(run: StrategyRun, unit: str) -> tuple[np.ndarray, np.ndarray]:
    places = np.array([getattr(point, unit) for point in run.points], np.float64)
    return places, np.array([point.sampled for point in run.points])


def _finals(runs: list[StrategyRun]) -> np.ndarray:
    return np.array([[run.last.sampled] for run in runs])  # (R, 1)


def _difference(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    return mean_score(mine) - mean_score(theirs)


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _mean_totals(runs: list[StrategyRun]) -> dict[str, float]:
    """Means of the totals over the runs, and the tokens computed for each finished trajectory."""
    means = {name: float(np.mean([run.totals[name] for run in runs])) for name in runs[0].totals}
    means["computed_per_trajectory"] = means["tokens_computed"] / means["trajectories"]
    return means
