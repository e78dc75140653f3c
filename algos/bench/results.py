"""What was measured, and what it comes to."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from textenv.algos.bench.plan import Row, Side


@dataclass(frozen=True)
class Measurement:
    """What a run found, or why it found nothing."""

    round: int
    found: dict[str, Any]
    error: str = ""


@dataclass
class Results:
    """All runs so far, by row and side."""

    rows: Sequence[Row]
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    _measurements: dict[tuple[int, str], list[Measurement]] = field(default_factory=dict)
    _failures: dict[tuple[int, str], str] = field(default_factory=dict)

    def add(self, row: int, side: str, measurement: Measurement) -> None:
        """Keep a run."""
        self._measurements.setdefault((row, side), []).append(measurement)

    def fail(self, row: int, side: str, why: str) -> None:
        """Keep why there is none."""
        self._failures[row, side] = why

    def failed(self, row: int, side: str) -> str:
        """Why a side has no runs, or no more; empty where nothing went wrong."""
        return self._failures.get((row, side), "")

    def measurements(self, row: int, side: str) -> list[Measurement]:
        """The runs of a side, by round."""
        return self._measurements.get((row, side), [])

    @property
    def runs(self) -> int:
        """How many there are."""
        return sum(map(len, self._measurements.values()))

    def of_part(self, part: str) -> list[int]:
        """The rows of a part, by their numbers."""
        return [i for i, row in enumerate(self.rows) if row.part == part]

    def side(self, row: int, name: str) -> Side:
        """A side by its name."""
        return next(side for side in self.rows[row].sides if side.name == name)

    def median(self, row: int, side: str, key: str, *inner: str) -> float | None:
        """Median over the rounds of a figure; None where no run has it."""
        values = [_get(o.found, (key, *inner)) for o in self.measurements(row, side)]
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else None

    def ratios(self, row: int, over: str, under: str, key: str) -> dict[int, float]:
        """One side's figure over another's, by round, for rounds that both have."""
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
