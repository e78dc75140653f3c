"""Measures the time of a run, and evaluates it at fixed checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from textenv.algos.compare.results import PARTS, EvaluationPoint, Run


class Watch:
    """Measures a run, and evaluates it at its checkpoints while the clock is stopped.

    The clock starts when the watch is made. There is a checkpoint every ``eval_every``
    transitions; an agent is evaluated at the first update at or after each of them.

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
        """Seconds since the start, without those of evaluations."""
        return float(self._spent()[0])

    def __call__(self, steps: int, policy: Any) -> None:
        """Note how far the run is, and evaluate the policy if a checkpoint is due.

        Args:
            steps: transitions so far.
            policy: what the run has trained so far.
        """
        if steps >= self._next:
            self._next = (steps // self._every + 1) * self._every
            self._measure(steps, policy)

    def finish(
        self, agent: str, seed: int, steps: int, policy: Any, parts: dict[str, float]
    ) -> Run:
        """End the run, and give what it measured.

        Args:
            agent: the name of the agent.
            seed: the seed of the run.
            steps: transitions in all.
            policy: the policy that was trained.
            parts: seconds by `PARTS`; the rest of the time counts as ``other``.
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
        """Seconds, and CPU seconds of all threads, without those of evaluations."""
        return _now() - self._began - self._stopped


def _now() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])
