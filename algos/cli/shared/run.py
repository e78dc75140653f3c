"""Carries out one `textenv train`: evaluates, trains, saves, evaluates again."""

from __future__ import annotations

import shlex
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from rich.console import Console

from textenv.algos.cli.shared.judging import Judge, Judgement, say_judgement
from textenv.algos.cli.shared.reporting import RunLog
from textenv.algos.cli.shared.run_folder import Picture, RunFolder, spare_folders
from textenv.algos.cli.shared.stopping import StopSignals
from textenv.algos.lm.models.card import add_results
from textenv.algos.runtime.versions import versions
from textenv.algos.training.guard import NotFiniteError

_BATCH = "not_finite.json"
_LONGEST = 1000  # characters of a reason

State = Literal["running", "finished", "interrupted", "failed"]


class Trainable(Protocol):
    """What a run needs of a trainer."""

    config: Any
    history: list[dict[str, float]]

    @property
    def has_ended(self) -> bool:
        """Whether the training has made all its steps, or ended early."""

    def train(self) -> Any:
        """Train to the end."""

    def stop(self) -> None:
        """Let `train` return after the present step."""

    def save(self, folder: Path) -> Any:
        """Write the trained model."""

    def describe(self) -> str:
        """What is trained, in one line."""


class _End(NamedTuple):
    """How a training ended."""

    state: State
    reason: str = ""
    code: int = 0
    """The exit code."""
    judged: bool = True
    """Whether there is time to evaluate the model."""


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
    stops: StopSignals = field(default_factory=StopSignals)
    """What the system's signals to stop do; open while the run is carried out."""
    resumed: bool = False
    """Whether the trainer goes on, and was evaluated when it began."""
    log: RunLog | None = None
    """Logs the run to trackers; opened and closed here."""

    def carry_out(self) -> int:
        """Evaluate, train, save, and evaluate again.

        The folder appears before the first update. However the training ends, its summary says so,
        and what was learnt is saved: in another folder, if the run's own one cannot be written to.
        A training that Ctrl-C ended is evaluated as it is.

        Returns:
            The exit code: 0, or 128 and the number of the signal that ended it.
        """
        say = self.console.print
        for line in self.opening:
            say(line)
        self.folder.check_room(_size(self.trainer))
        before = self._judge_before()
        say_judgement(say, "before", before)
        self.folder.create(self.settings)
        if self.log is not None:
            self.log.open(self.settings)
            if not self.resumed:
                self.log.judged("before", before, {})
        first = getattr(self.judge, "first", None)
        if first is not None:
            self.folder.write_first(first)
        # A process that is killed leaves this one.
        self._write_summary(_End("running"), before, None)
        try:
            end = self._train()
        except BaseException as error:
            if isinstance(error, NotFiniteError):
                self._save_batch(error)
            kind, what = type(error).__name__, " ".join(str(error).split())
            self._finish(_End("failed", f"{kind}: {what}"[:_LONGEST], judged=False), before)
            if self.log is not None:
                self.log.close(failed=True)
            raise  # which matters more than what went wrong after it
        end, after = self._finish(end, before)
        say_judgement(say, "after", after)
        if self.log is not None:
            history = self.trainer.history
            self.log.judged("after", after, history[-1] if history else {})
            self.log.close()
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
        return end.code

    def _judge_before(self) -> Judgement | None:
        """Evaluate the policy, or read what was found when the training began."""
        if not self.resumed:
            return self.judge()
        self.console.print(f"going on after {len(self.trainer.history)} {self.unit}")
        remember = getattr(self.judge, "remember", None)
        first = self.folder.read_first()
        if remember is not None and first is not None:
            remember(first)
        return self.folder.read_summary().get("before")

    def _train(self) -> _End:
        """Train, until the end or until a signal asks to stop."""
        saying = "the step is finished, then everything is saved"
        try:
            # The training of a run that goes on may have ended, and what came after it not.
            if not (self.resumed and self.trainer.has_ended):
                with self.stops.deferring(self.trainer.stop, saying), self.display:
                    self.trainer.train()
        except KeyboardInterrupt as error:  # a second signal, or one from elsewhere
            return self._interrupted(error)
        if self.stops.requested is not None:
            return self._interrupted(self.stops.requested)
        stopped = getattr(self.trainer, "stopped", "")
        if stopped:
            self.console.print(stopped)
        return _End("finished", stopped)

    def _interrupted(self, error: KeyboardInterrupt) -> _End:
        number = getattr(error, "signal", signal.SIGINT)
        done = f"after {len(self.trainer.history)} {self.unit}"
        self.console.print(f"interrupted {done}: saving what there is")
        # The other signals come of a system that does not wait for long.
        judged = number == signal.SIGINT
        return _End("interrupted", f"{number.name} {done}", 128 + number, judged)

    def _finish(self, end: _End, before: Judgement | None) -> tuple[_End, Judgement | None]:
        """Write the model, the summary and the picture.

        Returns:
            The end, which is an interruption also if the evaluation was interrupted, and the
            evaluation of the model.
        """
        self.stops.requested = None
        after, failure = None, None
        with self.stops.deferring(lambda: None, "what there is is being saved"):
            try:
                if end.state != "failed" or self.trainer.history:
                    end, failure = self._save(end)
            finally:
                self._write_summary(end, before, None)
        if end.judged and self.stops.requested is None and failure is None:
            try:
                after = self.judge()
                last = getattr(self.judge, "evaluations", {}).get("greedy")
                if last is not None:
                    self.folder.write_last(last)
                add_results(self.folder.model, {"before": before, "after": after})
            except KeyboardInterrupt as error:
                number = getattr(error, "signal", signal.SIGINT)
                what = "the evaluation after the training was interrupted"
                end = _End("interrupted", what, 128 + number)
                self.console.print(what)
            except Exception as error:
                failure = error
                end = _End("failed", f"the evaluation after the training: {error}"[:_LONGEST])
        self._write_summary(end, before, after)
        if self.picture is not None and self.trainer.history:
            self.folder.draw(self.picture, self.trainer.history)
        if failure is not None and end.judged:
            raise failure
        return end, after

    def _save(self, end: _End) -> tuple[_End, Exception | None]:
        """Write the model, to another folder if the run's own one cannot be written to.

        Returns:
            The end, and the error if the model could be saved nowhere.
        """
        failed = end.state == "failed"
        begins = f"failed after {len(self.trainer.history)} {self.unit}" if failed else end.state
        try:
            self.folder.check()
            self.trainer.save(self.folder.model)
            if failed:
                self.console.print(f"{begins}: the model so far is in {self.folder.model}")
            self._say_how_to_go_on(end, self._save_checkpoint())
            return end, None
        except Exception as error:  # whatever broke the training may break this too
            why = error
        for folder in spare_folders(self.folder.path):
            try:
                with folder:
                    self.trainer.save(folder.model)
                    folder.create(self.settings)
                    folder.keep_metrics(self.trainer.history)
                    newest = self._save_checkpoint(folder.path)
            except Exception:  # the next one may be on another disk
                continue
            lost = f"{self.folder.path} cannot be written to ({why}): the run is in {folder.path}"
            self.console.print(lost)
            self.folder = folder
            self._say_how_to_go_on(end, newest)
            return end._replace(reason=end.reason or lost, code=end.code or 2), None
        lost = f"the model cannot be saved: {why}"
        self.console.print(f"{begins}; {lost}")
        return (end if failed else _End("failed", lost[:_LONGEST])), why

    def _save_checkpoint(self, out: Path | None = None) -> Path | None:
        """Write the state after the last whole step, if that was not done.

        Args:
            out: another folder than the run's own.

        Returns:
            The newest checkpoint; None if there is none.
        """
        checkpoints = getattr(self.trainer, "checkpoints", None)
        return None if checkpoints is None else checkpoints.save_last(out)

    def _say_how_to_go_on(self, end: _End, newest: Path | None) -> None:
        if newest is not None and end.state != "finished":
            run = shlex.quote(str(self.folder.path))
            self.console.print(f"to go on: textenv train --resume {run}")

    def _save_batch(self, error: NotFiniteError) -> None:
        """Write what could not be trained on, for inspection."""
        path = self.folder.path / _BATCH
        try:
            error.batch.save(path)
            self.console.print(f"what the last of these steps was to train on is in {path}")
        except (OSError, ValueError) as why:
            self.console.print(f"what these steps were to train on cannot be saved: {why}")

    def _write_summary(self, end: _End, before: Judgement | None, after: Judgement | None) -> None:
        """Write the summary; if a training that failed cannot have one, a line says so."""
        summary = {
            "state": end.state,
            **({"reason": end.reason} if end.reason else {}),
            **self.facts(),
            "before": before,
            "after": after,
            **self._judged(),
            "seconds": round(self._seconds(), 1),
            "seed": self.trainer.config.seed,
            **self.machine,
            "versions": versions(),
        }
        try:
            self.folder.write_summary(summary)
        except OSError as error:
            if end.state != "failed":
                raise
            self.console.print(f"{self.folder.path} has no summary: {error}")

    def _judged(self) -> dict[str, Any]:
        """What the summary says of the change by the training, and of its best evaluation."""
        change = getattr(self.judge, "change", None)
        evaluations = getattr(self.trainer, "evaluations", None)
        best = {} if evaluations is None else evaluations.summary()
        return {
            **({} if change is None else {"change": change.as_dict()}),
            **({"best": best} if best else {}),
        }

    def _seconds(self) -> float:
        return time.perf_counter() - self.started


def _size(trainer: Any) -> int:
    """The bytes of a trainer's model and of a checkpoint; 0 as far as they are not known."""
    state = getattr(trainer, "state", None)
    model = getattr(getattr(trainer, "policy", None), "model", None)
    size = 0 if state is None else sum(array.nbytes for array in state().arrays.values())
    if model is not None:
        from mlx.utils import tree_flatten

        weights: Any = tree_flatten(model.parameters())
        size += sum(weight.nbytes for _, weight in weights)
    return size
