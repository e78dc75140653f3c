"""Compares measurements with those of an earlier commit, or of an earlier run's results.json."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import textenv
from textenv.algos.bench.plan import Row
from textenv.algos.bench.results import Earlier, Results
from textenv.errors import ConfigError

NOISE = (
    "Slower or faster is said where the median ratio is further from 1 than the ratios are from "
    "one another, in two rounds at least."
)
_PACKAGES = ("textenv", "wrappers", "algos")


@dataclass(frozen=True)
class Comparison:
    """The seconds of a side now, beside those before."""

    row: Row
    side: str
    before: float
    """Median seconds before."""
    now: float
    """Median seconds now."""
    ratios: tuple[float, ...]
    """Seconds before over seconds now: of each round, or of each two runs if they took no turns."""
    rounds: int
    """How many runs there are of the side that has fewer."""

    @property
    def median(self) -> float:
        """The median ratio: how many times as fast it is now."""
        return statistics.median(self.ratios)

    @property
    def low(self) -> float:
        """The least ratio."""
        return min(self.ratios)

    @property
    def high(self) -> float:
        """The highest ratio."""
        return max(self.ratios)

    @property
    def verdict(self) -> str:
        """``slower``, ``faster``, or empty if it cannot be told from noise."""
        if self.rounds < 2 or abs(self.median - 1) <= self.high - self.low:
            return ""
        return "slower" if self.median < 1 else "faster"


def read_results(path: Path) -> Earlier:
    """The measurements of an earlier run.

    Args:
        path: its results.json.

    Raises:
        ConfigError: if it is not such a file.
    """
    try:
        whole = json.loads(path.read_bytes())
        if whole["format"] != "textenv.bench":
            raise ValueError(f"its format is {whole['format']!r}")
        seconds = {
            _key(row["part"], row["model"], row["work"], side): [
                float(run["seconds"]) for run in found["runs"]
            ]
            for row in whole["rows"]
            for side, found in row["sides"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"--compare takes a commit, or the results.json of textenv bench; {path} is none: "
            f"{type(error).__name__}: {error}"
        ) from error
    return Earlier(str(path), seconds)


def check_out(commit: str, folder: Path) -> Path:
    """Lay out the package as it was at a commit of the clone that this process runs from.

    Args:
        commit: its name, as git knows it.
        folder: an empty folder to do it in.

    Returns:
        The folder to put in PYTHONPATH.

    Raises:
        ConfigError: if this process does not run from a clone, or git does not know the commit.
    """
    clone = Path(textenv.__file__).resolve().parents[1]
    if not (clone / ".git").exists() or shutil.which("git") is None:
        raise ConfigError(
            f"--compare {commit}: there is no such file, and commits need git and an install from "
            f"a clone (pip install -e), which {clone} is not"
        )
    archive, source, laid_out = folder / "commit.zip", folder / "source", folder / "package"
    try:
        found = _git(clone, "rev-parse", "--verify", "--end-of-options", f"{commit}^{{commit}}")
        _git(clone, "archive", f"--output={archive}", found, "--", *_PACKAGES)
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines() or ["nothing"]
        raise ConfigError(
            "--compare takes a commit, or the results.json of textenv bench; git finds no commit "
            f"{commit!r} ({said[-1]})"
        ) from error
    shutil.unpack_archive(archive, source)
    laid_out.mkdir()
    shutil.move(source / "textenv", laid_out / "textenv")
    for name in _PACKAGES[1:]:  # as pyproject.toml maps them
        shutil.move(source / name, laid_out / "textenv" / name)
    return laid_out


def _git(clone: Path, *arguments: str) -> str:
    command = ["git", "-C", str(clone), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def comparisons(results: Results) -> Iterator[Comparison]:
    """The sides that were measured before and now."""
    earlier = results.earlier.seconds if results.earlier else {}
    for i, row in enumerate(results.rows):
        for side in row.present:
            now = _seconds(results, i, side.name)
            twin = next((other.name for other in row.sides if other.of == side.name), None)
            if twin is not None:
                before = _seconds(results, i, twin)
                ratios = tuple(results.ratios(i, twin, side.name, "seconds").values())
            else:
                work = row.work._asdict() if row.work else None
                before = earlier.get(_key(row.part, row.size, work, side.name), [])
                ratios = tuple(then / seconds for then in before for seconds in now)
            if ratios:
                yield Comparison(
                    row,
                    side.name,
                    statistics.median(before),
                    statistics.median(now),
                    ratios,
                    min(len(before), len(now)),
                )


def _seconds(results: Results, row: int, side: str) -> list[float]:
    found = (o.found.get("seconds") for o in results.measurements(row, side))
    return [seconds for seconds in found if seconds]


def _key(part: str, model: str, work: Any, side: str) -> tuple[str, ...]:
    return part, model, json.dumps(work, sort_keys=True), side


def said_of(results: Results) -> list[str]:
    """What became slower, in a line each, or that nothing did; empty if nothing is compared."""
    if results.earlier is None:
        return []
    slower = [c for c in comparisons(results) if c.verdict == "slower"]
    if not slower:
        return [f"nothing is slower than {results.earlier.name} by more than the noise"]
    return [
        f"slower than {results.earlier.name} by more than the noise: {c.row.part} "
        f"({c.row.size or 'tiny-lm'}, {c.row.title}), {c.side}: {c.median:.2f} times as fast "
        f"({c.low:.2f} to {c.high:.2f})"
        for c in slower
    ]
