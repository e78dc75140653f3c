"""What a trainer calls while it trains: your own callbacks, and the one that logs to trackers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from textenv.algos.config import check_integer, to_table
from textenv.algos.episodes.trajectory import Buffer
from textenv.algos.evaluation.results import Evaluation
from textenv.algos.storage.trackers.tracker import Row, Run, Tracker
from textenv.algos.storage.trackers.tracking import Tracking
from textenv.errors import ConfigTypeError

_SAMPLES = 8  # completions of a step that are logged
_RECORDS = 50  # examples of an evaluation that are logged


class Callback:
    """What a trainer calls; derive from it, and override what you need.

    The trainer is always given, and ``trainer.stop()`` ends the training after its step. An error
    in a callback ends the training.

    Example:
        >>> class Patience(Callback):
        ...     def on_step(self, trainer, metrics, rollout):
        ...         if metrics["reward"] > 0.9:
        ...             trainer.stop()
    """

    def on_step(self, trainer: Any, metrics: dict[str, float], rollout: Buffer | None) -> None:
        """Called after each step, update or pass.

        Args:
            trainer: the trainer.
            metrics: those of the step; those of an evaluation are among them if there was one.
            rollout: what was trained on; None for a trainer that is given its data.
        """

    def on_evaluate(self, trainer: Any, evaluation: Evaluation) -> None:
        """Called after an evaluation of ``eval_steps``, before `on_step` of its step.

        Args:
            trainer: the trainer.
            evaluation: what was found, with each question and answer.
        """

    def on_save(self, trainer: Any, folder: Path) -> None:
        """Called when a model or a checkpoint is on the disk.

        Args:
            trainer: the trainer.
            folder: where it is.
        """

    def on_end(self, trainer: Any) -> None:
        """Called when ``train()`` is about to return, also after ``stop()``.

        Args:
            trainer: the trainer.
        """


class CallsBack:
    """A trainer that calls callbacks.

    Attributes:
        callbacks: what is called, in this order.
    """

    callbacks: tuple[Callback, ...] = ()
    _on_step: Callable[..., None] | None = None
    _told: Path | None = None  # the newest checkpoint that callbacks know of

    def _call(
        self, on_step: Callable[..., None] | None, callbacks: Sequence[Callback] | Callback
    ) -> None:
        """Set what is called.

        Raises:
            ConfigTypeError: if a callback does not derive from `Callback`.
        """
        self._on_step = on_step
        self.callbacks = (callbacks,) if isinstance(callbacks, Callback) else tuple(callbacks)
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                raise ConfigTypeError(
                    f"callbacks must be objects that derive from textenv.algos.Callback, got "
                    f"{callback!r:.80}; a function is given as on_step"
                )

    def _after_step(self, metrics: dict[str, float], rollout: Buffer | None = None) -> None:
        """Tell callbacks of a step, and of the evaluation after it."""
        if "eval/reward" in metrics:
            evaluations: Any = getattr(self, "evaluations")  # noqa: B009, those of text have it
            for callback in self.callbacks:
                callback.on_evaluate(self, evaluations.last)
        for callback in self.callbacks:
            callback.on_step(self, metrics, rollout)

    def _after_save(self, folder: str | Path) -> None:
        """Tell of a model or a checkpoint."""
        for callback in self.callbacks:
            callback.on_save(self, Path(folder))

    def _after_checkpoint(self, newest: Path | None) -> None:
        """Tell of a checkpoint that is on the disk, once."""
        if newest is not None and newest != self._told:
            self._told = newest
            self._after_save(newest)

    def _after_end(self) -> None:
        """Tell of the end."""
        for callback in self.callbacks:
            callback.on_end(self)


class LogTo(Callback):
    """Logs a training to trackers: metrics, settings, evaluations and sampled completions.

    Steps are counted in transitions (``time/total_timesteps``) where there is such a metric, as
    Stable-Baselines3 does, and else in ``step``. A tracker that fails is left out from then on, and
    a line says so once; the training goes on.

    Args:
        trackers: ``"tensorboard"``, ``"wandb"``, ``"trackio"``, ``"mlflow"``, ``"csv"``, or what
            makes a `Tracker` of a `Run`.
        folder: the folder for the files of trackers that write files; its name is the run's name.
        samples_every: log completions of the first of every so many calls of `on_step`; 0: none.
        say: prints a line about a tracker that fails; None warns.
        resumed: whether an earlier process has logged steps of this run.
        quiet: whether trackers are to print nothing.

    Raises:
        ConfigError: if there is no tracker of a name.
        MissingDependencyError: if its package is not installed; names the extra.

    Example:
        >>> trainer = GRPOTrainer("tiny-lm", callbacks=[LogTo(["csv"], "runs/mine")])
    """

    def __init__(
        self,
        trackers: Sequence[str | Callable[[Run], Tracker]],
        folder: str | Path,
        *,
        samples_every: int = 20,
        say: Callable[[str], None] | None = None,
        resumed: bool = False,
        quiet: bool = False,
    ):
        check_integer("samples_every", samples_every, 0)
        self._tracking = Tracking(trackers, say or _warn)
        self._folder, self._every = Path(folder), samples_every
        self._resumed, self._quiet = resumed, quiet
        self._steps = 0
        self._opened = False
        self._records: list[Row] = []  # of an evaluation, until its step is known

    def open(self, config: Mapping[str, Any]) -> None:
        """Open the trackers, if they are not open.

        Args:
            config: the settings to log.
        """
        if not self._opened:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._tracking.open(Run(self._folder, config, self._resumed, self._quiet))
            self._opened = self._resumed = True

    def on_step(self, trainer: Any, metrics: dict[str, float], rollout: Buffer | None) -> None:
        """Log the metrics, now and then completions, and the evaluation of the step."""
        config = getattr(trainer, "config", None)  # agents of Stable-Baselines3 have none
        self.open({} if config is None else to_table(config))
        step = step_of(metrics)
        self._tracking.log(metrics, step)
        if self._records:
            self._tracking.table("eval/examples", self._records, step)
            self._records = []
        if rollout is not None and self._every and self._steps % self._every == 0:
            self._tracking.table("completions", _samples(rollout), step)
        self._steps += 1

    def on_evaluate(self, trainer: Any, evaluation: Evaluation) -> None:
        """Keep what was asked and answered, to be logged with the step."""
        self._records = _records(evaluation)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log further figures; only while the trackers are open."""
        self._tracking.log(metrics, step)

    def on_end(self, trainer: Any) -> None:
        """Close the trackers."""
        self.close()

    def close(self, failed: bool = False) -> None:
        """Close the trackers; a further step opens them again.

        Args:
            failed: whether an error ended the training.
        """
        self._tracking.close(failed)
        self._opened = False


def step_of(metrics: Mapping[str, float]) -> int:
    """What the steps of a training are counted by: transitions if they are known, else steps."""
    return int(metrics.get("time/total_timesteps", metrics.get("step", metrics.get("epoch", 0))))


def _samples(rollout: Buffer) -> list[Row]:
    """A few completions, spread over a rollout of text; none of control."""
    trajectories = [t for t in rollout if t.prompt is not None]
    rows: list[Row] = []
    for t in trajectories[:: max(1, -(-len(trajectories) // _SAMPLES))]:
        parts: dict[str, float] = {}
        for info in t.infos:
            for name, value in info.get("rewards", {}).items():
                parts[f"rewards/{name}"] = parts.get(f"rewards/{name}", 0.0) + value
        rows.append(
            {
                "prompt": t.prompt,
                "completion": "\n".join(map(str, t.actions)),
                "reward": t.total_reward,
                **parts,
            }
        )
    return rows


def _records(evaluation: Evaluation) -> list[Row]:
    return [
        {
            "example": float(record.example_id),
            "prompt": record.prompt,
            "expected": None if record.expected is None else str(record.expected),
            "completion": record.completions[0],
            "answer": None if record.answers[0] is None else str(record.answers[0]),
            "reward": record.reward,
            "accuracy": record.accuracy,
        }
        for record in evaluation.records[:_RECORDS]
    ]


def _warn(line: str) -> None:
    warnings.warn(line, stacklevel=2)
