"""Where a training is told of beside its folder: trackers, lines of JSON, or warnings alone."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any, Literal, TextIO

from rich.console import Console

from textenv.algos.cli.shared.display import Terminal
from textenv.algos.cli.shared.escape import say
from textenv.algos.cli.shared.judging import Judgement
from textenv.algos.cli.shared.run_folder import RunFolder
from textenv.algos.storage.trackers.tracking import default_trackers
from textenv.algos.trainers.callbacks import LogTo, step_of

Name = Literal["tensorboard", "wandb", "trackio", "mlflow", "csv"]


@dataclass
class Reporting:
    """The options that say where a training is told of."""

    log_to: tuple[Name, ...] | None = None
    """Where metrics, settings, evaluations and completions go beside the run's folder. Unset:
    tensorboard, if it is installed; without a name: nowhere."""
    quiet: bool = False
    """Print warnings and errors alone, to standard error."""
    json: bool = False
    """Print the metrics of each step as a line of JSON, and nothing else to standard output."""

    def __post_init__(self) -> None:
        self._lines: TextIO | None = None  # where JSON goes

    @contextmanager
    def streams(self) -> Iterator[None]:
        """A block in which what is printed goes where these options say.

        With ``--quiet`` it goes nowhere, and with ``--json`` alone to standard error, also what the
        user's own functions print. Inside, `attach` may be called.
        """
        self._lines = sys.stdout if self.json else None
        with ExitStack() as stack:
            if self.quiet:
                nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(redirect_stdout(nowhere))
            elif self.json:
                stack.enter_context(redirect_stdout(sys.stderr))
            yield

    def attach(self, folder: RunFolder) -> RunFolder:
        """Let a run's folder tell of each step that is written to it, if it is to be printed."""
        lines = self._lines
        if lines is not None:
            folder.on_metrics = lambda row: print(json_line(row), file=lines, flush=True)
        return folder

    @property
    def warnings(self) -> Console | None:
        """Where warnings are printed; None: where everything is."""
        return Terminal(stderr=True) if self.quiet else None

    def warn(self, line: str) -> None:
        """Print a warning."""
        say(f"warning: {line}", sys.stderr if self.quiet else None)

    def log(self, folder: RunFolder, samples_every: int = 0, resumed: bool = False) -> RunLog:
        """Make what logs the run to the trackers.

        Args:
            folder: the run's folder.
            samples_every: log completions of one in so many steps; 0: none.
            resumed: whether the run goes on.

        Raises:
            MissingDependencyError: if the package of a tracker is not installed.
        """
        names = default_trackers() if self.log_to is None else self.log_to
        return RunLog(
            names,
            folder.path,
            samples_every=samples_every,
            say=self.warn,
            resumed=resumed,
            quiet=self.quiet,
        )


class RunLog(LogTo):
    """Logs a run of the command line, which is longer than its training."""

    def on_end(self, trainer: Any) -> None:
        """Leave the trackers open: the evaluation after the training follows."""

    def judged(self, when: str, found: Judgement | None, last: Mapping[str, float]) -> None:
        """Log an evaluation before or after the training, as ``WHEN/greedy/accuracy``.

        Args:
            when: ``"before"`` or ``"after"``.
            found: the figures; None if there was no evaluation.
            last: the metrics of the last step; empty if there was none.
        """
        figures = {
            f"{when}/{kind}/{name}": value
            for kind, figures in (found or {}).items()
            for name, value in figures.items()
        }
        if figures:
            self.log(figures, step_of(last))


def json_line(row: Mapping[str, Any]) -> str:
    """A row as JSON, which has no number for what is not finite: that is null."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }
    return json.dumps(finite, allow_nan=False)
