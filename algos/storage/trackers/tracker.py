"""What a tracker is: it takes the metrics and the tables of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Row = Mapping[str, str | float | None]
"""A row of a table: a text, a number or nothing under the name of each column."""


@dataclass(frozen=True)
class Run:
    """The run that a tracker is opened for."""

    folder: Path
    """The run's folder; a tracker that writes files writes them here."""
    config: Mapping[str, Any]
    """The settings, as values of JSON; tables are nested."""
    resumed: bool = False
    """Whether an earlier process has logged steps of this run."""
    quiet: bool = False
    """Whether the tracker is to print nothing."""

    @property
    def name(self) -> str:
        """What the run is called."""
        return self.folder.resolve().name

    @property
    def project(self) -> str:
        """What the runs beside it are called together."""
        return "textenv"

    def flat_config(self) -> dict[str, str | float | bool]:
        """The settings without nesting, as ``table.setting``; lists become text."""
        return dict(_flat(self.config, ""))


class Tracker(Protocol):
    """Takes what is logged of one run; its class is called with a `Run`.

    Any method may raise any exception: `Tracking` then leaves the tracker out.
    """

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Take the metrics of a step; they may be NaN or infinite."""

    def table(self, name: str, rows: Sequence[Row], step: int) -> None:
        """Take a table that belongs to a step, such as sampled completions."""

    def close(self, failed: bool) -> None:
        """Finish what is under way; nothing more is logged.

        Args:
            failed: whether an error ended the run.
        """


def by_column(rows: Sequence[Row]) -> dict[str, list[str | float | None]]:
    """The columns of a table; a row that lacks one has None there."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def verbatim(text: str) -> str:
    """A text as a code block of Markdown, so that nothing in it is markup."""
    return "\n".join(f"    {line}" for line in text.splitlines())


def _flat(config: Mapping[str, Any], before: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in config.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{before}{name}.")
        else:
            plain = isinstance(value, (str, bool, int, float))
            found.append((before + name, value if plain else str(value)))
    return found
