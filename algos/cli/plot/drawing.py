"""Draws curves as a picture that can go into a paper, as PNG or SVG.

Curves differ in their markers too, for print in grey.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from textenv.algos.cli.plot.curves import Line
from textenv.algos.cli.shared.escape import one_line
from textenv.algos.compare.plot import COLOURS, load_matplotlib
from textenv.algos.storage.replacing import write_whole
from textenv.errors import StorageError

_MARKERS = "osD^vP*"
_DASHES = ("-", "--", ":", "-.")  # when the colours begin again
_MOST_MARKED = 40  # points of a curve that each have a marker; more hide the curve
_SIZE = (5.5, 3.4)  # inches: the width of a page's text
_DOTS = 300  # an inch, as journals ask for
_NAMES = {
    "steps": "steps",
    "tokens": "generated tokens",
    "seconds": "seconds of training, evaluations not counted",
    "eval/accuracy": "accuracy on held-out examples",
    "eval/reward": "reward on held-out examples",
    "rollout/ep_rew_mean": "return, mean of the last 100 episodes",
}
_STYLE = {
    "text.parse_math": False,  # $a$ is a name with two dollar signs
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "svg.hashsalt": "textenv",  # else the ids in the file are random
}


def write_pictures(
    lines: Sequence[Line], x: str, y: str, title: str, places: Sequence[Path]
) -> list[Path]:
    """Draw the curves into files, each of which appears complete.

    Args:
        lines: the curves.
        x: the metric across.
        y: the metric up.
        title: above the picture; empty for none.
        places: the files; their endings say which format they have.

    Raises:
        MissingDependencyError: if there is no matplotlib.
        StorageError: if a file cannot be written.
    """
    matplotlib = load_matplotlib()
    with matplotlib.rc_context(_STYLE):
        figure = draw(lines, x, y, title)
        try:
            for path in places:
                _write(figure, path)
        finally:
            _pyplot().close(figure)
    return list(places)


def draw(lines: Sequence[Line], x: str, y: str, title: str = "") -> Any:
    """The picture as a figure of matplotlib."""
    figure, axes = _pyplot().subplots(figsize=_SIZE, layout="constrained")
    for number, line in enumerate(lines):
        round_, place = divmod(number, len(COLOURS))
        look = {
            "color": COLOURS[place],
            "linestyle": _DASHES[round_ % len(_DASHES)],
            "marker": _MARKERS[place] if len(line.x) <= _MOST_MARKED else None,
            "markersize": 4,
        }
        if line.faint is not None:
            axes.plot(*line.faint, color=COLOURS[place], alpha=0.25, linewidth=0.7)
        axes.plot(line.x, line.middle, label=one_line(line.label), **look)
        if line.low is not None and line.high is not None:
            axes.fill_between(
                line.x, line.low, line.high, color=COLOURS[place], alpha=0.2, linewidth=0
            )
    axes.locator_params("x", nbins=7)
    axes.xaxis.set_major_formatter(
        lambda place, _: f"{place:,g}" if abs(place) < 1e6 else f"{place:.3g}"
    )
    axes.set_xlabel(_NAMES.get(x, one_line(x)))
    bands = "\n".join(dict.fromkeys(line.band for line in lines if line.band))
    axes.set_ylabel(_NAMES.get(y, one_line(y)))
    if title or bands:
        axes.set_title(one_line(title), loc="center")
        if bands:
            axes.annotate(
                bands, (0, 1), (0, 4), "axes fraction", "offset points", fontsize=7, color="#555555"
            )
    if len(lines) > 1:
        beside = len(lines) > len(COLOURS)
        axes.legend(
            fontsize="small",
            loc="upper left" if beside else "best",
            bbox_to_anchor=(1, 1) if beside else None,
            ncols=math.ceil(len(lines) / 24) if beside else 1,
        )
    return figure


def _write(figure: Any, path: Path) -> None:
    """Write one file, whole or not at all."""
    kind = path.suffix[1:]
    # Without the date and the version the same curves give the same bytes.
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(
            path, lambda staged: figure.savefig(staged, dpi=_DOTS, format=kind, metadata=metadata)
        )
    except OSError as error:
        raise StorageError(f"{path} cannot be written to: {error.strerror or error}") from error


def _pyplot() -> Any:
    import matplotlib.pyplot as plt

    return plt
