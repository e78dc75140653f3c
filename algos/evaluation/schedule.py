"""Evaluates a policy while it trains: when, on how many examples, and which model was the best."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym

from textenv.algos.config import check_bounds, check_counts
from textenv.algos.episodes.environments import innermost, is_text, make_env
from textenv.algos.episodes.scoring import kept_for_inspection
from textenv.algos.episodes.style import style_for
from textenv.algos.evaluation.measure import OnProgress, evaluate
from textenv.algos.evaluation.results import Evaluation
from textenv.algos.rollouts.prompts import check_prompts
from textenv.algos.storage.checkpoints.state import State
from textenv.envs.env import TextGenerationEnv
from textenv.errors import ConfigError
from textenv.tasks.dataset import Dataset

BEST = "best"
"""The best model's folder, in the folder that a trainer was given."""

METRICS = ("accuracy", "reward")
"""Metrics that the best model may be chosen by, beside the means of reward components."""

FREE = 10.0
"""So many seconds the evaluations of a training may take in all, however short the training is."""

_ROOM = 0.8  # of the time that evaluations may take is planned with: no two take equally long


def check_settings(config: Any) -> None:
    """Check the settings of evaluations: ``eval_steps`` and those below it in `GRPOConfig`.

    Raises:
        ConfigError: for a value out of range, or settings that need others; names the field.
    """
    counts = ("eval_steps", "eval_examples", "eval_samples", "early_stopping_patience")
    check_counts(config, counts, 0)
    check_bounds(config, eval_share=(0, 1))
    if config.eval_share == 0:
        raise ConfigError("eval_share must be above 0, got 0; eval_steps=0 never evaluates")
    if config.eval_steps and not config.eval_examples:
        raise ConfigError("eval_steps needs eval_examples, which is 0")
    metric = config.metric_for_best_model
    if metric not in METRICS and not (metric.startswith("rewards/") and metric.endswith("/mean")):
        raise ConfigError(
            f"metric_for_best_model must be {' or '.join(METRICS)}, or rewards/NAME/mean for a "
            f"reward component, got {metric!r:.80}"
        )
    if config.early_stopping_patience and not config.eval_steps:
        raise ConfigError(
            "early_stopping_patience counts evaluations during the training: set eval_steps"
        )


class Best(NamedTuple):
    """The best evaluation of a training."""

    step: int
    """After how many optimizer steps it was."""
    value: float
    """The metric that it is the best by."""
    evaluation: Evaluation
    folder: Path | None
    """Where the model of that step is; None if the trainer was given no folder."""


class EvaluationSchedule:
    """Evaluates a policy every so many steps of its training, keeps the best, and may end it.

    All evaluations of a training are on the same examples. The first one measures how long an
    example takes, and decides how many there are, so that all of them together take no more than
    ``eval_share`` of the training's time and `FREE`, but at least a first batch. If one would take
    more all the same, it waits for a later step.

    Evaluations draw from random generators of their own: a training draws what it would without.

    Args:
        config: the settings, of a trainer of text.
        policy: the policy that is trained.
        env: an environment of held-out examples; None makes the test split of the training's.
        training_env: the environment that is trained in.
        save: writes the model to a folder.
        out: where the folder `BEST` with the best model will be; None keeps no model.
        on_progress: called while an evaluation plays, with how many examples of how many it has.

    Attributes:
        best: the best evaluation so far; None before the first.
        last: the newest evaluation, with what was asked and answered; None before the first.
        stopped: whether the last evaluations brought no gain, so that the training is to end.

    Raises:
        ConfigError: if evaluations are asked for, and there are no held-out examples.
    """

    def __init__(
        self,
        config: Any,
        policy: Any,
        env: Any,
        training_env: Any,
        save: Callable[[Path], None],
        out: str | Path | None = None,
        on_progress: OnProgress | None = None,
    ):
        self._config, self._policy, self._save = config, policy, save
        self._given, self._training_env = env, training_env
        self._out = out
        self._folder = None if out is None else Path(out) / BEST
        self._on_progress = on_progress
        self.best: Best | None = None
        self.last: Evaluation | None = None
        self.stopped = False
        self._env: Any = None
        self._ids: list[int] = []  # of the examples, once it is decided which
        self._without_gain = 0
        self._evaluated_at = 0
        self._training = self._evaluating = 0.0  # seconds
        self._expected = 0.0  # seconds of an evaluation
        if config.eval_steps or env is not None:
            self._make_env()

    def evaluate(self, examples: int | None = None, samples: int | None = None) -> Evaluation:
        """Evaluate the policy as it is, however long that takes.

        Args:
            examples: how many examples; None: as many as the config says.
            samples: how many sampled answers to each; 0: a greedy one; None: as the config says.

        Raises:
            ConfigError: if there are no held-out examples.
        """
        count = self._config.eval_examples if examples is None else examples
        return self._evaluate(count, samples)

    def close(self) -> None:
        """Close the environment of the held-out examples."""
        if self._env is not None:
            self._env.close()

    def check(self) -> None:
        """Check the held-out examples, before the first step of a training.

        Raises:
            DataError: if a held-out prompt does not fit the model's context.
        """
        if self._config.eval_steps:
            check_prompts(self._policy, self._env)

    def begin(self) -> None:
        """Let a training begin, or go on after evaluations without gain ended it."""
        self.stopped, self._without_gain = False, 0

    def after_step(self, step: int, progress: float, seconds: float) -> dict[str, float]:
        """Evaluate, if it is time to. The end of the training always is.

        Args:
            step: how many optimizer steps there have been.
            progress: the share of the training that is done; 1 at its end.
            seconds: how long the training took since the last call, without evaluations.

        Returns:
            Metrics of the evaluation; none if there was none.

        Raises:
            ConfigError: if the metric that decides which model is the best is not among them.
        """
        self._training += seconds
        every = self._config.eval_steps
        if not every or (step // every == self._evaluated_at // every and progress < 1):
            return {}
        began = time.perf_counter()
        allowed = self._allowed(step, progress)
        if self._ids and self._expected > allowed and progress < 1:
            return {}
        if self._ids:
            found = self._evaluate(self._ids)
        else:
            budget = None if math.isinf(allowed) else _ROOM * allowed
            found = self._evaluate(self._config.eval_examples, most_seconds=budget)
            self._ids = [record.example_id for record in found.records]
        self.last, self._evaluated_at = found, step
        self._expected = time.perf_counter() - began
        self._judge(step, found, progress < 1)
        spent = time.perf_counter() - began
        self._evaluating += spent
        assert self.best is not None
        return found.metrics() | {"eval/best_step": float(self.best.step), "time/evaluate": spent}

    def describe(self) -> str:
        """The best evaluation, and whether the training ended early; empty before the first one."""
        if self.best is None:
            return ""
        name = chosen_metric(self.best.evaluation, self._config.metric_for_best_model)
        kept = "" if self.best.folder is None else f", its model is in {self.best.folder}"
        line = f"best evaluation: step {self.best.step}, {name} {self.best.value:.3f}{kept}"
        if not self.stopped:
            return line
        return f"ended early, after {self._without_gain} evaluation(s) without gain; {line}"

    def summary(self) -> dict[str, Any]:
        """The best evaluation as plain values, for a file; empty before the first."""
        if self.best is None:
            return {}
        name = chosen_metric(self.best.evaluation, self._config.metric_for_best_model)
        return {
            "step": self.best.step,
            "metric": name,
            "value": self.best.value,
            "folder": None if self.best.folder is None else str(self.best.folder),
            "stopped_early": self.stopped,
            "evaluation": self.best.evaluation.as_dict(),
        }

    def state(self) -> State:
        """The evaluations so far, on which examples they are, and the time that they took."""
        best = self.best
        return State(
            values={
                "best": best and [best.step, best.value, best.evaluation.to_json()],
                "last": self.last and self.last.to_json(),
                "stopped": self.stopped,
                "ids": list(self._ids),
                "without_gain": self._without_gain,
                "evaluated_at": self._evaluated_at,
                "seconds": [self._training, self._evaluating, self._expected],
            }
        )

    def load_state(self, state: State) -> None:
        """Go on from what `state` gave."""
        best, last = state.value("best"), state.value("last")
        if best is not None:
            kept = self._folder if self._folder is not None and self._folder.is_dir() else None
            best = Best(best[0], best[1], Evaluation.from_json(best[2]), kept)
        self.best, self.last = best, None if last is None else Evaluation.from_json(last)
        self.stopped, self._ids = state.value("stopped"), list(state.value("ids"))
        self._without_gain = state.value("without_gain")
        self._evaluated_at = state.value("evaluated_at")
        self._training, self._evaluating, self._expected = state.value("seconds")

    def _allowed(self, step: int, progress: float) -> float:
        """How many seconds an evaluation may take now."""
        share = self._config.eval_share
        if share == 1:
            return math.inf
        share /= 1 - share  # of the training without its evaluations
        if self._ids:
            return FREE + share * self._training - self._evaluating
        evaluations = math.ceil(step / progress / self._config.eval_steps - 1e-9)
        return (FREE + share * self._training / progress) / max(evaluations, 1)

    def _evaluate(self, examples: Any, samples: int | None = None, **limits: Any) -> Evaluation:
        count = self._config.eval_samples if samples is None else samples
        env = self._make_env()
        policy = self._policy.with_params(seed=self._policy.params.seed + 1, precision="float32")
        with kept_for_inspection(self._out):
            return evaluate(
                policy,
                env,
                examples,
                deterministic=count == 0,
                samples=max(count, 1),
                on_progress=self._on_progress,
                on_reward_error=getattr(self._config, "on_reward_error", "fail"),
                **limits,
            )

    def _judge(self, step: int, found: Evaluation, goes_on: bool) -> None:
        """Keep the model if it is the best so far; count the evaluations that brought no gain."""
        name = chosen_metric(found, self._config.metric_for_best_model)
        value = found.metrics()[f"eval/{name}"]
        if self.best is None or value > self.best.value:
            if self._folder is not None:
                self._save(self._folder)
            self.best = Best(step, value, found, self._folder)
            self._without_gain = 0
            return
        self._without_gain += 1
        patience = self._config.early_stopping_patience
        self.stopped = goes_on and 0 < patience <= self._without_gain

    def _make_env(self) -> Any:
        if not is_text(self._training_env):
            raise ConfigError(
                "eval_steps and evaluate() are for text; on control, "
                "textenv.algos.evaluation.measure.episode_returns plays episodes"
            )
        if self._env is None:
            if isinstance(self._given, str):
                policy = self._policy
                style = style_for(self._given, None, policy.tokenizer, policy.params.chat_template)
                self._env = make_env(self._given, style)
            elif self._given is not None:
                self._env = make_env(self._given)
            else:
                self._env = held_out(self._training_env)
            if not is_text(self._env) or not hasattr(innermost(self._env), "task"):
                raise ConfigError(
                    f"eval_env must be a TextGen environment of text, got {self._env!r:.80}"
                )
        return self._env


def chosen_metric(evaluation: Evaluation, name: str) -> str:
    """The metric by which models are compared: the one that is named, if it was measured.

    Args:
        evaluation: any evaluation of the training.
        name: ``"accuracy"``, which is the reward if the task cannot tell what is right,
            ``"reward"``, or ``"rewards/NAME/mean"`` for a reward component.

    Raises:
        ConfigError: for a component that there is not; says which there are.
    """
    if name == "accuracy" and evaluation.accuracy is None:
        return "reward"
    if f"eval/{name}" not in evaluation.metrics():
        known = [f"rewards/{part}/mean" for part in evaluation.components]
        raise ConfigError(
            f"metric_for_best_model={name!r} is not measured; expected "
            f"{', '.join([*METRICS, *known])}"
        )
    return name


def held_out(env: Any) -> gym.Env:
    """The same environment with the test split of its examples.

    Raises:
        ConfigError: if its examples are not split, so that none are held out.
    """
    inner = innermost(env)
    task, spec = getattr(inner, "task", None), getattr(env, "spec", None)
    why = ""
    if not isinstance(inner, TextGenerationEnv) or spec is None:
        why = f"{type(inner).__name__} cannot be made again with other examples"
    elif isinstance(task, Dataset) and spec.kwargs.get("split") != "train":
        why = "all rows of its examples are trained on, unless it has split='train'"
    else:
        kwargs = {**spec.kwargs, "split": "test"}
        try:  # Gymnasium copies the kwargs of a spec, and passes those beside it on as they are
            return gym.make(dataclasses.replace(spec, kwargs={}), **kwargs)
        except (ConfigError, gym.error.Error) as error:
            why = str(error)
    raise ConfigError(
        f"an evaluation needs held-out examples, and the environment has none ({why}): give the "
        "trainer eval_env=, an environment of other examples"
    )
