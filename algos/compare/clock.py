"""One run's clock and its checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from textenv.algos.compare.results import PARTS, EvaluationPoint, Run


class Watch:
    """Measures a run, and evaluates it at its checkpoints with the clock stopped.

    The clock runs from the making of the watch. Checkpoints are every ``eval_every`` transitions;
    an agent is evaluated at the first update at or after each.

    Args:
        evaluate: gives the returns of a policy's evaluation episodes.
        eval_every: transitions between two checkpoints.
        on_evaluation: called after each evaluation.
    """

    def __init__(
        self,
        evaluate: Callable[[Any], list[float]],
        eval_every: int,
        on_evaluation: Callable[[EvaluationPoint], None] | None = None,
    ):
        self.evaluations: list[EvaluationPoint] = []
        self._evaluate = evaluate
        self._every = eval_every
        self._next = 0
        self._on_evaluation = on_evaluation
        self._began, self._stopped = _now(), np.zeros(2)

    @property
    def seconds(self) -> float:
        """Since the start, without what evaluations took."""
        return float(self._spent()[0])

    def __call__(self, steps: int, policy: Any) -> None:
        """Say how far the run is; evaluates the policy where a checkpoint is due."""
        if steps >= self._next:
            self._next = (steps // self._every + 1) * self._every
            self._measure(steps, policy)

    def finish(
        self, agent: str, seed: int, steps: int, policy: Any, parts: dict[str, float]
    ) -> Run:
        """End the run.

        Args:
            agent: its name.
            seed: its seed.
            steps: transitions in all.
            policy: what was trained.
            parts: seconds by `PARTS`; what none of them accounts for is ``other``.
        """
        seconds, cpu_seconds = map(float, self._spent())
        if not self.evaluations or self.evaluations[-1].steps < steps:
            self._measure(steps, policy)
        known = {part: parts.get(part, 0.0) for part in PARTS if part != "other"}
        known["other"] = max(0.0, seconds - sum(known.values()))
        return Run(agent, seed, tuple(self.evaluations), seconds, cpu_seconds, known)

    def _measure(self, steps: int, policy: Any) -> None:
        spent = self._spent()
        returns = tuple(float(value) for value in self._evaluate(policy))
        self.evaluations.append(EvaluationPoint(steps, float(spent[0]), float(spent[1]), returns))
        if self._on_evaluation is not None:
            self._on_evaluation(self.evaluations[-1])
        self._stopped = _now() - self._began - spent

    def _spent(self) -> np.ndarray:
        """Seconds, and seconds of all threads."""
        return _now() - self._began - self._stopped


def _now() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])
