"""Carries out one `textenv train`: evaluates, trains, saves, evaluates again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from rich.console import Console

from textenv.algos.cli.shared.judging import Judge, Judgement, say_judgement
from textenv.algos.cli.shared.run_folder import Picture, RunFolder
from textenv.algos.lm.models.card import add_results
from textenv.algos.runtime.versions import versions

State = Literal["finished", "interrupted", "failed"]


class Trainable(Protocol):
    """What a run needs of a trainer."""

    config: Any
    history: list[dict[str, float]]

    def train(self) -> Any:
        """Train to the end."""

    def save(self, folder: Path) -> Any:
        """Write the trained model."""

    def describe(self) -> str:
        """What is trained, in one line."""


@dataclass
class TrainingRun:
    """A training that is about to start, and what its folder will say about it."""

    folder: RunFolder
    settings: Mapping[str, Any]
    """The content of ``config.toml``."""
    trainer: Trainable
    judge: Judge
    """Evaluates the policy, before and after the training."""
    console: Console
    opening: Sequence[str]
    """Lines that are printed first."""
    facts: Callable[[], Mapping[str, Any]]
    """Called after the training: the entries of ``summary.json`` that only this command knows."""
    picture: Picture | None
    """The picture to draw of the history."""
    started: float
    """When the command started, by `time.perf_counter`."""
    unit: str = "updates"
    """What the entries of the trainer's history are."""
    display: AbstractContextManager[Any] = field(default_factory=nullcontext)
    """Open while the trainer trains."""
    machine: Mapping[str, Any] = field(default_factory=dict)
    """Entries of ``summary.json`` about the machine, beside the versions."""
    export: Callable[[], str] | None = None
    """Called after the last evaluation; writes further files, and says what they are."""

    def carry_out(self) -> int:
        """Evaluate, train, save, and evaluate again.

        The folder appears before the first update. A training that is interrupted is saved and
        evaluated as it is. One that fails is saved too, if it had made a step, and leaves a summary
        that says so.

        Returns:
            The exit code: 0, or 130 after Ctrl-C.
        """
        say = self.console.print
        for line in self.opening:
            say(line)
        before = self.judge()
        say_judgement(say, "before", before)
        self.folder.create(self.settings)
        state: State = "failed"
        try:
            with self.display:
                self.trainer.train()
            state = "finished"
            stopped = getattr(self.trainer, "stopped", "")
            if stopped:
                say(stopped)
        except KeyboardInterrupt:
            state = "interrupted"
            done = len(self.trainer.history)
            say(f"interrupted after {done} {self.unit}: saving what there is")
        finally:
            state, after = self._finish(state, before)
        say_judgement(say, "after", after)
        change = getattr(self.judge, "change", None)
        if change is not None:
            say(f"greedy answers before and after: {change.describe()}")
        if self.export is not None:
            say(self.export())
        evaluations = getattr(self.trainer, "evaluations", None)
        if evaluations is not None and evaluations.best is not None:
            say(evaluations.describe())
        folder = self.folder
        say(f"{self._seconds():.1f} s; the run is in {folder.path}, the model in {folder.model}")
        return 130 if state == "interrupted" else 0

    def _finish(self, state: State, before: Judgement | None) -> tuple[State, Judgement | None]:
        """Write the model, the summary and the picture.

        Returns:
            The state, which is ``"interrupted"`` also if the evaluation was, and the evaluation of
            the model.
        """
        after = None
        if state != "failed":
            self.trainer.save(self.folder.model)
            try:
                after = self.judge()
                add_results(self.folder.model, {"before": before, "after": after})
            except KeyboardInterrupt:
                state = "interrupted"
                self.console.print("the evaluation after the training was interrupted")
        elif self.trainer.history:
            self._save_what_was_learnt()
        self.folder.write_summary(
            {
                "state": state,
                **self.facts(),
                "before": before,
                "after": after,
                **self._judged(),
                "seconds": round(self._seconds(), 1),
                "seed": self.trainer.config.seed,
                **self.machine,
                "versions": versions(),
            }
        )
        if self.picture is not None and self.trainer.history:
            self.folder.draw(self.picture, self.trainer.history)
        return state, after

    def _judged(self) -> dict[str, Any]:
        """What the summary says of the change by the training, and of its best evaluation."""
        change = getattr(self.judge, "change", None)
        evaluations = getattr(self.trainer, "evaluations", None)
        best = {} if evaluations is None else evaluations.summary()
        return {
            **({} if change is None else {"change": change.as_dict()}),
            **({"best": best} if best else {}),
        }

    def _save_what_was_learnt(self) -> None:
        """Write the model of a training that failed; the error that ended it matters more."""
        begins = f"failed after {len(self.trainer.history)} {self.unit}"
        try:
            self.trainer.save(self.folder.model)
            self.console.print(f"{begins}: the model so far is in {self.folder.model}")
        except Exception as error:  # whatever broke may break this too
            self.console.print(f"{begins}; the model cannot be saved: {error}")

    def _seconds(self) -> float:
        return time.perf_counter() - self.started
