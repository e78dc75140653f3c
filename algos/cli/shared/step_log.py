"""Writes and shows each step of a training on text, and what is found to be wrong."""

from __future__ import annotations

from collections.abc import Sequence

from textenv.algos.cli.shared.display import TextDisplay
from textenv.algos.cli.shared.run_folder import RunFolder
from textenv.algos.episodes.rollout import Rollout
from textenv.algos.rollouts.health.watch import Finding


class StepLog:
    """What a trainer of text calls after each step.

    Args:
        folder: its ``metrics.jsonl`` is given a line for each step. What was found to be wrong
            after a step stands in its line under ``"warnings"``.
        display: shows each step, and each thing that is wrong once.
    """

    def __init__(self, folder: RunFolder, display: TextDisplay):
        self._folder, self._display = folder, display
        self._found: Sequence[Finding] = ()
        self._said = 0

    def watch(self, found: Sequence[Finding]) -> None:
        """Show what is wrong before the first step, and from then on what a trainer adds.

        Args:
            found: the trainer's ``warnings``, a list to which it appends.
        """
        self._found = found
        self._say_new()

    def on_step(self, metrics: dict[str, float], rollout: Rollout) -> None:
        """Write and show a step."""
        new = [finding.as_dict() for finding in self._found[self._said :]]
        self._folder.add_metrics({**metrics, **({"warnings": new} if new else {})})
        self._display.on_step(metrics, rollout)
        self._say_new()

    def _say_new(self) -> None:
        for finding in self._found[self._said :]:
            self._display.console.print(f"warning: {finding}")
        self._said = len(self._found)
