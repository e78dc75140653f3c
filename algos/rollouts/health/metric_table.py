"""The table of all metrics: what each one means, its healthy range, and what to do outside it.

A metric that a training of this package can have is a row of `text_metrics`, `update_metrics` or
`control_metrics`. ``examples/make_metrics.py`` writes the page ``examples/metrics.md`` from them,
and a test holds that each metric of a run has a row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from textenv.algos.rollouts.health.control_metrics import CONTROL
from textenv.algos.rollouts.health.text_metrics import TEXT
from textenv.algos.rollouts.health.update_metrics import UPDATES


@dataclass(frozen=True)
class Metric:
    """A metric of a training step.

    Attributes:
        name: its name; a part in braces stands for any name, as in ``rewards/{function}/mean``.
        meaning: what it measures.
        healthy: what it usually is in a training that learns; empty for a plain count or setting.
        remedy: what to do if it is not; empty if there is nothing to do.
    """

    name: str
    meaning: str
    healthy: str = ""
    remedy: str = ""


def _tables() -> dict[str, tuple[Metric, ...]]:
    sections: Mapping[str, Sequence[tuple[str, ...]]] = {**TEXT, **UPDATES, **CONTROL}
    return {title: tuple(Metric(*row) for row in rows) for title, rows in sections.items()}


METRICS = _tables()
"""All metrics, by the title of their section."""

_PATTERNS = [
    (re.compile(re.sub(r"\\{\w+\\}", ".+", re.escape(metric.name))), metric)
    for rows in METRICS.values()
    for metric in rows
]


def find(name: str) -> Metric | None:
    """The row of a metric; None if the table has none.

    A row with the very name goes before one with a part in braces.

    Example:
        >>> find("rewards/correct/mean").name
        'rewards/{function}/mean'
    """
    found = [metric for pattern, metric in _PATTERNS if pattern.fullmatch(name)]
    return min(found, key=lambda metric: metric.name.count("{"), default=None)
