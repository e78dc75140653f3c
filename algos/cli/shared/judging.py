"""Evaluates the policy of a training, greedy and sampled, before and after the training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console

from textenv.algos.cli.shared.progress import evaluation_progress
from textenv.algos.config import check_integer
from textenv.algos.evaluation.measure import episode_returns, evaluate
from textenv.algos.evaluation.paired import Comparison, compare
from textenv.algos.evaluation.results import Evaluation

_CONTROL_SEED = 2**30  # of the evaluation's episodes, far from the seeds of training
_SHORT = 10.0  # seconds; an evaluation that is no longer is never cut
_COST = 3  # a completion that is trained on, in completions that are only generated
_EVALUATIONS = 4  # greedy and sampled, before and after
_FEW = 10  # examples; one right answer more or less is at least a tenth of the accuracy

Judgement = dict[str, dict[str, Any]]
"""The figures of an evaluation under ``"greedy"`` and ``"sampled"``, and those of held-out answers
under ``"held_out"``."""

Judge = Callable[[], "Judgement | None"]
"""Evaluates a policy as it is now; gives None if there is nothing to evaluate on."""


class TextJudge:
    """Evaluates on test examples; sampled answers have a seed of their own.

    All evaluations are on the same examples. The first one decides how many these are, if they
    would take a larger share of the run than they may.

    Args:
        trainer: the trainer whose policy is evaluated.
        env: an environment of the split to evaluate on; None evaluates nothing.
        examples: how many examples; 0 evaluates nothing.
        console: shows how far an evaluation is; None shows nothing.
        completions: how many completions the run trains on, from which the run's time is
            estimated; None: the evaluations may take as long as they take.
        share: the share of the run that the evaluations may take.
        on_found: called with the kind of each evaluation, and what it found.

    Attributes:
        evaluations: the newest evaluations, under ``"greedy"`` and ``"sampled"``.
        change: the greedy answers of the newest beside those of the first; None before that.
    """

    def __init__(
        self,
        trainer: Any,
        env: Any,
        examples: int,
        *,
        console: Console | None = None,
        completions: float | None = None,
        share: float = 1.0,
        on_found: Callable[[str, Evaluation], None] | None = None,
    ):
        self._trainer, self._env, self._console = trainer, env, console
        self._on_found = on_found
        self._wanted = examples
        self._examples: Any = examples  # how many, and later which
        self._limits: dict[str, Any] = {}
        if completions is not None and share < 1:
            fewest = int(share * completions * _COST / _EVALUATIONS)
            self._limits = {"most_seconds": _SHORT, "fewest": fewest}
        self._first: Evaluation | None = None
        self.evaluations: dict[str, Evaluation] = {}
        self.change: Comparison | None = None

    @property
    def first(self) -> Evaluation | None:
        """The first evaluation's greedy answers; None before it."""
        return self._first

    def remember(self, first: Evaluation) -> None:
        """Go on from the first evaluation's greedy answers, of a training that goes on."""
        self._first, self._limits = first, {}
        self._examples = [record.example_id for record in first.records]

    @property
    def evaluates(self) -> bool:
        """Whether there is anything to evaluate on."""
        return self._env is not None and bool(self._examples)

    def __call__(self) -> Judgement | None:
        """Evaluate the policy as it is now."""
        if not self.evaluates:
            return None
        policy = self._trainer.policy.with_params(
            seed=self._trainer.config.seed + 1, precision="float32"
        )
        for kind in ("greedy", "sampled"):
            with evaluation_progress(self._console, f"{kind} answers") as on_progress:
                found = evaluate(
                    policy,
                    self._env,
                    self._examples,
                    deterministic=kind == "greedy",
                    on_progress=on_progress,
                    on_reward_error=getattr(self._trainer.config, "on_reward_error", "fail"),
                    **self._limits,
                )
            self.evaluations[kind] = found
            if self._on_found is not None:
                self._on_found(kind, found)
            if self._limits:  # those that were left out stay out
                self._limits = {}
                self._examples = [record.example_id for record in found.records]
        greedy = self.evaluations["greedy"]
        if self._first is None:
            self._first = greedy
            self._say_if_few(len(greedy.records) + greedy.left_out)
        else:
            self.change = compare(self._first, greedy)
        return {kind: found.as_dict() for kind, found in self.evaluations.items()}

    def _say_if_few(self, held_out: int) -> None:
        """Say that there are few examples, if that is not what was asked for."""
        if self._console is not None and held_out < min(_FEW, self._wanted):
            self._console.print(
                f"evaluated on all held-out examples, and these are only {held_out}: "
                "--eval-dataset names a file of others"
            )


def control_judge(trainer: Any, env: Any, episodes: int) -> Judge:
    """Make a judge that evaluates on whole episodes.

    Args:
        trainer: the trainer whose policy is evaluated.
        env: a single environment; None evaluates nothing.
        episodes: how many episodes; 0 evaluates nothing.

    Raises:
        ConfigError: if ``episodes`` is negative.
    """
    check_integer("eval_episodes", episodes, 0)

    def judge() -> Judgement | None:
        if env is None or not episodes:
            return None
        found = {}
        for kind, deterministic in (("greedy", True), ("sampled", False)):
            returns = episode_returns(trainer.policy, env, episodes, _CONTROL_SEED, deterministic)
            found[kind] = {
                "return": float(returns.mean()),
                "return_std": float(returns.std()),
                "examples": episodes,
            }
        return found

    return judge


def say_judgement(say: Callable[[str], None], when: str, result: Judgement | None) -> None:
    """Print an evaluation as one line, with its reward components below it if there are several.

    Args:
        say: prints a line.
        when: the start of the line, ``"before"`` or ``"after"``.
        result: the evaluation; None if there was none.
    """
    if result is None:
        say(f"{when}: not evaluated")
        return
    if "held_out" in result:
        found = result["held_out"]
        say(
            f"{when}: held-out loss {found['loss']:.4f}, accuracy of tokens "
            f"{found['mean_token_accuracy']:.3f} on {found['rows']} rows"
        )
    if "greedy" not in result:
        return
    greedy, sampled = result["greedy"], result["sampled"]
    if "return" in greedy:
        say(
            f"{when}: return greedy {greedy['return']:.1f}, sampled {sampled['return']:.1f}, "
            f"mean of {greedy['examples']} episodes each"
        )
        return
    figure = "accuracy" if greedy["accuracy"] is not None else "reward"
    left_out = greedy.get("left_out")
    of = f" of {greedy['examples'] + left_out}, to save time (eval_share)" if left_out else ""
    say(
        f"{when}: {figure} greedy {_with_interval(greedy, figure)}, sampled "
        f"{_with_interval(sampled, figure)} on {greedy['examples']} test examples{of}"
    )
    for kind, found in (("greedy", greedy), ("sampled", sampled)):
        parts = found.get("rewards", {})
        shown = [f"{name} {value:.3f}" for name, value in parts.items() if len(parts) > 1]
        if found.get("truncated"):
            shown.append(f"{found['truncated']:.0%} of the answers cut off")
        if shown:
            say(f"{when}: {kind} {', '.join(shown)}")


def _with_interval(found: Mapping[str, Any], figure: str) -> str:
    """A figure, and its interval if that is known."""
    interval = found.get(f"{figure}_interval")
    ends = f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
    return f"{found[figure]:.3f}{ends}"
