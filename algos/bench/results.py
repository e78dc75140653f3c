"""The measurements made so far, and the medians and ratios that follow from them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from textenv.algos.bench.plan import Row, Side


@dataclass(frozen=True)
class Measurement:
    """What a run found, or why it failed."""

    round: int
    found: dict[str, Any]
    error: str = ""


@dataclass(frozen=True)
class Earlier:
    """What the measurements are compared with."""

    name: str
    """The commit or the file, as it was given."""
    seconds: dict[tuple[str, ...], list[float]] = field(default_factory=dict)
    """The seconds of the file's runs, by row and side; a commit has its turns among ours."""


@dataclass
class Results:
    """All measurements so far, by row and side."""

    rows: Sequence[Row]
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    earlier: Earlier | None = None
    _measurements: dict[tuple[int, str], list[Measurement]] = field(default_factory=dict)
    _failures: dict[tuple[int, str], str] = field(default_factory=dict)

    def add(self, row: int, side: str, measurement: Measurement) -> None:
        """Add a measurement."""
        self._measurements.setdefault((row, side), []).append(measurement)

    def fail(self, row: int, side: str, why: str) -> None:
        """Record why a side has no measurements, or no more."""
        self._failures[row, side] = why

    def failed(self, row: int, side: str) -> str:
        """Why a side has no measurements, or no more; empty if nothing failed."""
        return self._failures.get((row, side), "")

    def measurements(self, row: int, side: str) -> list[Measurement]:
        """The measurements of a side, in the order of the rounds."""
        return self._measurements.get((row, side), [])

    @property
    def runs(self) -> int:
        """The number of measurements."""
        return sum(map(len, self._measurements.values()))

    def of_part(self, part: str) -> list[int]:
        """The numbers of the rows of a part."""
        return [i for i, row in enumerate(self.rows) if row.part == part]

    def side(self, row: int, name: str) -> Side:
        """The side of a row with this name."""
        return next(side for side in self.rows[row].sides if side.name == name)

    def median(self, row: int, side: str, key: str, *inner: str) -> float | None:
        """Median of a figure over the rounds; None if no measurement has it."""
        values = [_get(o.found, (key, *inner)) for o in self.measurements(row, side)]
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else None

    def ratios(self, row: int, over: str, under: str, key: str) -> dict[int, float]:
        """A side's figure divided by another's, by round, for rounds that both have."""
        top, bottom = (
            {m.round: m.found.get(key) for m in self.measurements(row, side)}
            for side in (over, under)
        )
        return {
            number: value / bottom[number]
            for number, value in top.items()
            if value and bottom.get(number)
        }


def _get(found: dict[str, Any], path: Sequence[str]) -> Any:
    value: Any = found
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value
