"""Shows how far an evaluation is, and how long it will still take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from textenv.algos.evaluation.measure import OnProgress

_EVERY = 10.0  # seconds between two lines, if the output is not a terminal


@contextmanager
def evaluation_progress(console: Console | None, what: str) -> Iterator[OnProgress | None]:
    """A block in which an evaluation plays: a bar on a terminal, else a line now and then.

    The bar is gone after the block, also if Ctrl-C leaves it.

    Args:
        console: where it is shown; None shows nothing.
        what: what is evaluated.

    Yields:
        What to call with the number of examples that were played, and that of all; or None.
    """
    if console is None:
        yield None
    elif console.is_terminal:
        with Progress(
            TextColumn(what),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("time left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        ) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        yield _Lines(console, what)


class _Lines:
    """Prints a line every few seconds, with the time left at the pace so far."""

    def __init__(self, console: Console, what: str):
        self._console, self._what = console, what
        self._began = self._shown = time.perf_counter()

    def __call__(self, done: int, total: int) -> None:
        now = time.perf_counter()
        if done == total or now - self._shown < _EVERY:
            return
        self._shown = now
        left = (now - self._began) / done * (total - done)
        self._console.print(
            f"{self._what}: {done} of {total} examples, about {duration(left)} left"
        )


def duration(seconds: float) -> str:
    """A time in the unit that suits it, as in "80 s", "12 minutes" and "3.5 hours"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
