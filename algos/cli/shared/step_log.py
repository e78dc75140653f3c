"""Writes and shows each step of a training on text, and what is found to be wrong."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from textenv.algos.cli.shared.display import TextDisplay
from textenv.algos.cli.shared.run_folder import RunFolder
from textenv.algos.episodes.rollout import Rollout
from textenv.algos.evaluation.results import Evaluation
from textenv.algos.rollouts.health.watch import Finding, HealthWatch, held_out_figure
from textenv.algos.trainers.callbacks import Callback


class StepLog:
    """What a trainer of text calls after each step.

    Args:
        folder: its ``metrics.jsonl`` is given a line for each step. What was found to be wrong
            after a step stands in its line under ``"warnings"``.
        display: shows each step, and each thing that is wrong once.
        warnings: where the latter is printed; None: where the display is.

    Attributes:
        display: as given.
    """

    def __init__(self, folder: RunFolder, display: TextDisplay, warnings: Console | None = None):
        self.display = display
        self._console = warnings or display.console
        self._folder = folder
        self._health: HealthWatch | None = None
        self._step = self._said = 0

    def watch(self, health: HealthWatch | None, resumed: bool = False) -> None:
        """Show what is wrong before the first step, and from then on what a trainer finds.

        Args:
            health: what finds it; None if nothing does.
            resumed: whether a run goes on, in which what was found by then was shown.
        """
        self._health = health
        if resumed:
            self._said = len(self._new())
        self._say_new()

    def on_step(self, metrics: dict[str, float], rollout: Rollout) -> None:
        """Write and show a step."""
        self._step = int(metrics["step"])
        new = [finding.as_dict() for finding in self._new()]
        self._folder.add_metrics({**metrics, **({"warnings": new} if new else {})})
        self.display.on_step(metrics, rollout)
        self._say_new()

    def on_evaluation(self, kind: str, found: Evaluation) -> None:
        """Look at an evaluation before or after the training, which is ``greedy`` or sampled."""
        if self._health is not None and found.accuracy is not None:
            figure = held_out_figure(kind == "sampled")
            self._health.evaluated(self._step, figure, found.accuracy, found.examples)
            self._say_new()

    def _new(self) -> list[Finding]:
        return [] if self._health is None else self._health.findings[self._said :]

    def _say_new(self) -> None:
        for finding in self._new():
            self._console.print(f"warning: {finding}")
            self._said += 1


class KeepAnswers(Callback):
    """Keeps the answers of the newest evaluation in a run's folder, while the training goes on.

    Args:
        folder: its ``after.json`` is given them.
    """

    def __init__(self, folder: RunFolder):
        self._folder = folder

    def on_evaluate(self, trainer: Any, evaluation: Evaluation) -> None:
        """Write the answers."""
        self._folder.write_last(evaluation)
