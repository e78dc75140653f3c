"""What the trainers of a policy share that evaluate it, and see whether it still learns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from textenv.algos.evaluation.results import Evaluation
from textenv.algos.evaluation.schedule import Best, EvaluationSchedule
from textenv.algos.rollouts.health.watch import Finding, HealthWatch, held_out_figure
from textenv.algos.training.last_good import LastGood


class EvaluatedTrainer(ABC):
    """A trainer whose policy is evaluated on held-out examples.

    A class that derives from it sets the attributes.

    Attributes:
        config: the settings, in a dataclass.
        evaluations: the evaluations of ``eval_steps``.
        health: looks for what keeps the model from learning; None on control.
        stopped: why the training ended before its last step, if it did.
    """

    config: Any
    evaluations: EvaluationSchedule
    health: HealthWatch | None = None
    stopped: str = ""
    _last_good: LastGood | None = None

    @property
    @abstractmethod
    def _taken(self) -> int:
        """Optimizer steps so far."""

    def evaluate(self, examples: int | None = None, samples: int | None = None) -> Evaluation:
        """Evaluate a policy of text as it is, on held-out examples.

        Later evaluations are compared with the first, to see whether the model has collapsed.

        Args:
            examples: how many examples; None: ``eval_examples``.
            samples: how many sampled answers to each; 0: a greedy one; None: ``eval_samples``.

        Raises:
            ConfigError: if there are no held-out examples, or on control.
        """
        found = self.evaluations.evaluate(examples, samples)
        if self.health is not None and found.accuracy is not None:
            sampled = bool(self.config.eval_samples if samples is None else samples)
            figure = held_out_figure(sampled)
            self.health.evaluated(self._taken, figure, found.accuracy, found.examples)
        return found

    @property
    def best(self) -> Best | None:
        """The best evaluation of ``eval_steps`` so far, and its model's folder, if it is kept."""
        return self.evaluations.best

    @property
    def warnings(self) -> list[Finding]:
        """On text, what was found that keeps the model from learning, once each, with a remedy."""
        return [] if self.health is None else self.health.findings

    def _stop_at_collapse(self) -> None:
        """With ``stop_on_collapse``, end the training at a collapse, with the best weights."""
        if self._last_good is None or self.health is None:
            return
        self._last_good.judge(self._taken, self.health.evaluations)
        if self.health.has_collapsed:
            self.stopped = self._last_good.go_back(self._taken)
