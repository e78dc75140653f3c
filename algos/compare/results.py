"""The results of a comparison: runs, their evaluations, and summaries of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from textenv.algos.compare.statistics import (
    Curve,
    bootstrap_interval,
    interquartile_mean,
    learning_curve,
    probability_of_improvement,
)

PARTS = ("environment", "policy", "update", "other")
"""The parts of a run that its seconds are counted for."""
_POINTS = 60  # points of a curve over seconds


@dataclass(frozen=True)
class EvaluationPoint:
    """An evaluation in the course of a run."""

    steps: int
    """Transitions that the agent had collected."""
    seconds: float
    """Seconds of the run so far, without those of evaluations."""
    cpu_seconds: float
    """CPU seconds of all threads in that time, which other processes hardly change."""
    returns: tuple[float, ...]
    """The returns of the evaluation episodes."""

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))


@dataclass(frozen=True)
class Run:
    """One agent, trained from one seed."""

    agent: str
    seed: int
    evaluations: tuple[EvaluationPoint, ...]
    """In order: the first before the training, the last after it."""
    seconds: float
    cpu_seconds: float
    parts: dict[str, float]
    """Seconds by `PARTS`, which add up to ``seconds``."""

    @property
    def steps(self) -> int:
        """Transitions in all."""
        return self.evaluations[-1].steps

    @property
    def final(self) -> float:
        """Mean return of the last evaluation."""
        return self.evaluations[-1].mean

    def reached(self, threshold: float) -> EvaluationPoint | None:
        """The first evaluation with a mean return of at least the threshold; None if none has."""
        return next((e for e in self.evaluations if e.mean >= threshold), None)


@dataclass
class AgentInfo:
    """An agent, for the record."""

    description: str
    settings: dict[str, Any]
    first_use_seconds: float = 0.0
    """Seconds of compilation, and of a rollout and an update that were thrown away."""


@dataclass
class Comparison:
    """A comparison, with the runs made so far."""

    settings: dict[str, Any]
    machine: dict[str, Any]
    agents: dict[str, AgentInfo]
    runs: list[Run] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The environment, and its task if it has one."""
        task = self.settings["env_kwargs"].get("task")
        return self.settings["env"] + (f", {task}" if task else "")

    def runs_of(self, agent: str) -> list[Run]:
        """The runs of an agent, in the order of their seeds."""
        return [run for run in self.runs if run.agent == agent]

    def summary(self) -> dict[str, dict[str, Any]]:
        """Figures of each agent's runs, for agents that have any."""
        found = {name: self._summary_of(name) for name in self.agents if self.runs_of(name)}
        first = next(iter(self.agents))
        if first not in found:
            return found
        for name in found:
            if name != first:
                mine, theirs = self._finals(name), self._finals(first)
                found[name]["probability_of_improvement"] = {
                    "over": first,
                    "value": float(probability_of_improvement(mine, theirs)),
                    "interval": bootstrap_interval(probability_of_improvement, mine, theirs),
                }
        return found

    def curve_by_steps(self, agent: str) -> Curve:
        """The return over transitions."""
        every, total = self.settings["eval_every"], self.settings["total_timesteps"]
        x = np.unique([*range(0, total, every), total])
        runs = [
            (np.array([e.steps for e in run.evaluations]), _means(run))
            for run in self.runs_of(agent)
        ]
        return learning_curve(runs, x)

    def curve_by_seconds(self, agent: str) -> Curve:
        """The return over seconds, up to the end of the shortest run."""
        runs = [
            (np.array([e.seconds for e in run.evaluations]), _means(run))
            for run in self.runs_of(agent)
        ]
        x = np.linspace(max(t[0] for t, _ in runs), min(t[-1] for t, _ in runs), _POINTS)
        return learning_curve(runs, x)

    def _finals(self, agent: str) -> np.ndarray:
        return np.array([[run.final] for run in self.runs_of(agent)])  # (R, 1)

    def _summary_of(self, agent: str) -> dict[str, Any]:
        runs, finals = self.runs_of(agent), self._finals(agent)
        seconds = sum(run.seconds for run in runs)
        found: dict[str, Any] = {
            "runs": len(runs),
            "final_iqm": float(interquartile_mean(finals)),
            "final_interval": bootstrap_interval(interquartile_mean, finals),
            "final_mean": float(finals.mean()),
            "final_lowest": float(finals.min()),
            "final_highest": float(finals.max()),
            "seconds": float(np.median([run.seconds for run in runs])),
            "cpu_seconds": float(np.median([run.cpu_seconds for run in runs])),
            "steps_per_second": sum(run.steps for run in runs) / seconds,
            "shares": {p: sum(run.parts[p] for run in runs) / seconds for p in PARTS},
        }
        if (threshold := self.settings.get("reach")) is not None:
            found["reach"] = _reach(runs, threshold)
        return found


def _reach(runs: list[Run], threshold: float) -> dict[str, Any]:
    """When the runs of an agent first reached a threshold; medians are None if most did not."""
    first = [run.reached(threshold) for run in runs]
    medians = {
        name: np.median([np.inf if e is None else getattr(e, name) for e in first])
        for name in ("seconds", "cpu_seconds", "steps")
    }
    return {
        "threshold": threshold,
        "reached": sum(e is not None for e in first),
        **{f"median_{k}": float(v) if np.isfinite(v) else None for k, v in medians.items()},
        "by_seed": {
            str(run.seed): None if e is None else {name: getattr(e, name) for name in medians}
            for run, e in zip(runs, first)
        },
    }


def _means(run: Run) -> np.ndarray:
    return np.array([e.mean for e in run.evaluations])
