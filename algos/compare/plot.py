"""Learning curves as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from textenv.algos.backend import EXTRA
from textenv.algos.compare.results import Comparison
from textenv.algos.compare.statistics import Curve
from textenv.errors import MissingDependencyError


def draw_curves(comparison: Comparison, path: Path) -> None:
    """Return against steps and against seconds: interquartile mean and its 95% band, as a PNG."""
    try:
        import matplotlib
    except ImportError as error:
        raise MissingDependencyError("matplotlib", EXTRA, "A picture of the curves") from error

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), sharey=True, layout="constrained")
    for number, name in enumerate(comparison.agents):
        if comparison.runs_of(name):
            _draw(left, comparison.curve_by_steps(name), f"C{number}", name)
            _draw(right, comparison.curve_by_seconds(name), f"C{number}", name)
    threshold = comparison.settings["reach"]
    for axes, unit in ((left, "steps"), (right, "seconds of the agent, evaluations not counted")):
        axes.set_xlabel(unit)
        axes.grid(alpha=0.3)
        if threshold is not None:
            axes.axhline(threshold, color="black", linewidth=0.8, linestyle=":")
    left.set_ylabel("return, interquartile mean and 95% band")
    left.legend(loc="lower right")
    figure.suptitle(comparison.title)
    figure.savefig(path, dpi=120, format="png")
    plt.close(figure)


def _draw(axes: Any, curve: Curve, colour: str, label: str) -> None:
    axes.plot(curve.x, curve.middle, color=colour, label=label)
    axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.2, linewidth=0)
