"""textenv plot: draws a metric of runs and comparisons as a picture for a page or a paper."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from textenv.algos.cli.plot.curves import Line, lines_of
from textenv.algos.cli.plot.drawing import write_pictures
from textenv.algos.cli.plot.series import Series, metrics_of, newest_run, read_runs
from textenv.algos.cli.shared.escape import count, say
from textenv.errors import ConfigError, unknown

_USUAL = ("eval/accuracy", "eval/reward", "reward", "rollout/ep_rew_mean", "return", "loss")
_ENDINGS = (".png", ".svg")


@dataclass
class Args:
    """Draw a metric of runs over steps, seconds or tokens, as PNG and SVG.

    Runs with the same settings, the seed aside, become one curve with a 95% band: interquartile
    mean and bootstrap, as in textenv compare. The curve of one run has the intervals that the run
    measured, or those of the mean of ten updates.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Folders of runs and of comparisons; none takes the newest run in runs/."""
    x: str = ""
    """Across: steps, seconds, tokens, or any metric; unset: steps, or tokens if there are none."""
    y: str = ""
    """Up: a metric of metrics.jsonl such as eval/accuracy; unset: the accuracy on held-out
    examples, or else the reward."""
    out: Path | None = None
    """The picture: a name that ends in .png or .svg, or without an ending for both; unset: both, in
    the first run's folder, named after the metrics."""
    title: str = ""
    """A title above the picture; unset: none, as papers have it in the caption."""

    seed: int = 0
    """Seed of the bootstrap that makes the bands of several runs."""


def run(args: Args) -> int:
    """Draw, and say what was written."""
    if args.out is not None and _ending(args.out) not in (*_ENDINGS, ""):
        raise ConfigError(
            f"--out must end in {' or '.join(_ENDINGS)}, or have no ending for both, got {args.out}"
        )
    found = read_runs(args.runs or (newest_run(),))
    y = args.y or _usual(found)
    x = args.x or ("steps" if any("steps" in series.columns for series in found) else "tokens")
    for name, axis in ((x, "--x"), (y, "--y")):
        if not any(name in series.columns for series in found):
            raise ConfigError(f"{axis}: {unknown('metric', name, sorted(metrics_of(found)))}")
    lines, notes = lines_of(found, x, y, args.seed)
    for note in notes:
        say(f"note: {note}")
    for path in write_pictures(lines, x, y, args.title, _places(args, found[0].folder, x, y)):
        say(f"{path}: {y} over {x}, {_describe(lines)}")
    return 0


def _usual(found: list[Series]) -> str:
    """The metric that most runs are looked at by, and that these have."""
    usual = [name for name in _USUAL if any(name in series.columns for series in found)]
    if not usual:
        known = sorted(metrics_of(found))
        what = f"name a metric, one of {', '.join(known)}" if known else "there is no metric at all"
        raise ConfigError(f"--y: none of {', '.join(_USUAL)} was measured: {what}")
    return usual[0]


def _places(args: Args, folder: Path, x: str, y: str) -> list[Path]:
    """The files to write."""
    out = args.out
    if out is None:
        out = folder / f"{y}-by-{x}".replace("/", "-")
    elif _ending(out):
        return [out]
    return [out.with_name(f"{out.name}{ending}") for ending in _ENDINGS]


def _ending(path: Path) -> str:
    """The ending of a name, such as ".png"; empty if it has none, as "v1.2" has none."""
    return path.suffix if path.suffix[1:2].isalpha() else ""


def _describe(lines: list[Line]) -> str:
    runs = sum(line.runs for line in lines)
    return f"{count(len(lines), 'curve')} of {count(runs, 'run')}"
