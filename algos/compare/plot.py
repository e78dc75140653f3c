"""Draws learning curves with their confidence bands."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from textenv.algos.compare.results import Comparison
from textenv.algos.compare.statistics import Curve
from textenv.algos.runtime.backend import EXTRA
from textenv.errors import MissingDependencyError

# https://jfly.uni-koeln.de/color/
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""The colours of Okabe and Ito, which people with any kind of colour blindness can tell apart;
without their yellow, which is too light on white."""


def try_to_draw(name: str, draw: Callable[[], object]) -> None:
    """Draw a picture; if that fails, a warning says why, and nothing else ends because of it.

    Texts in the picture are drawn as they are: ``$a$`` is a name with two dollar signs.

    Args:
        name: what the picture is called in the warning.
        draw: draws with matplotlib, and writes the file.
    """
    try:
        with load_matplotlib().rc_context({"text.parse_math": False}):
            draw()
    except Exception as error:  # of a library that parses, lays out and writes
        warnings.warn(f"{name} was not drawn: {error}", stacklevel=2)


def draw_curves(comparison: Comparison, path: Path) -> None:
    """Draw the return over steps and over seconds: interquartile mean with a 95% band, as a PNG."""
    names = [name for name in comparison.agents if comparison.runs_of(name)]
    panels = [
        ("steps", {name: comparison.curve_by_steps(name) for name in names}),
        (
            "seconds of the agent, evaluations not counted",
            {name: comparison.curve_by_seconds(name) for name in names},
        ),
    ]
    label = "return, interquartile mean and 95% band"
    draw_panels(panels, label, comparison.title, comparison.settings["reach"], path)


def draw_panels(
    panels: Sequence[tuple[str, Mapping[str, Curve]]],
    label: str,
    title: str,
    threshold: float | None,
    path: Path,
) -> None:
    """Draw panels of curves with their bands side by side, as a PNG.

    Args:
        panels: for each the label of its horizontal axis, and its curves by name.
        label: the label of the vertical axis.
        title: the title of the picture.
        threshold: height of a dotted line across each panel; None draws none.
        path: the file to write.
    """
    load_matplotlib()
    import matplotlib.pyplot as plt

    figure, every = plt.subplots(1, len(panels), figsize=(11, 4), sharey=True, layout="constrained")
    for axes, (unit, curves) in zip(every, panels):
        for number, (name, curve) in enumerate(curves.items()):
            _draw(axes, curve, COLOURS[number % len(COLOURS)], name)
        axes.set_xlabel(unit)
        axes.locator_params("x", nbins=6)
        axes.grid(alpha=0.3)
        if threshold is not None:
            axes.axhline(threshold, color="black", linewidth=0.8, linestyle=":")
    every[0].set_ylabel(label)
    every[0].legend(loc="lower right", fontsize="small")
    figure.suptitle(title)
    figure.savefig(path, dpi=120, format="png")
    plt.close(figure)


def load_matplotlib() -> Any:
    """The library, which draws to files alone from now on.

    Raises:
        MissingDependencyError: if it is not installed; says which extra brings it.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise MissingDependencyError("matplotlib", EXTRA, "A picture of the curves") from error
    matplotlib.use("Agg")
    return matplotlib


def _draw(axes: Any, curve: Curve, colour: str, label: str) -> None:
    axes.plot(curve.x, curve.middle, color=colour, label=label)
    axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.2, linewidth=0)
