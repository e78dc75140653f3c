"""The few numbers of a training step that the rules of health read, and windows of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from textenv.algos.episodes.trajectory import Trajectory
from textenv.algos.strategies.groups import TOLERANCE, by_group, outcome


@dataclass(frozen=True)
class StepFacts:
    """What a step's rollout and update were like.

    An outcome is 1 or 0 if the task can tell whether an answer is right, and else the reward.
    """

    step: int
    """Optimizer steps so far."""
    completions: int
    scored: int
    """Completions that a reward function scored."""
    judged: bool
    """Whether the task told of all of these whether they are right."""
    low: float
    """The lowest outcome of a completion."""
    high: float
    """The highest outcome."""
    groups: tuple[float, ...]
    """The mean outcome of each group."""
    uniform: int
    """Groups whose outcomes are all equal."""
    grouped: bool
    """Whether completions are compared within their group; False for PPO."""
    cut: int
    """Completions that ran out of tokens."""
    comparable: bool = True
    """Whether the prompts were drawn as those of any other step."""
    entropy: float | None = None
    """Entropy in nats of a whole completion."""
    mismatch: float | None = None
    """The largest difference between a log-probability of the sampler and that of the update."""
    clipped: float | None = None
    """The share of tokens whose ratio was clipped."""

    @property
    def mean(self) -> float:
        """The mean outcome, each group counted alike."""
        return float(np.mean(self.groups)) if self.groups else 0.0


def facts_of(
    step: int,
    metrics: Mapping[str, float],
    trajectories: Sequence[Trajectory],
    comparable: bool = True,
) -> StepFacts:
    """The facts of a step.

    Args:
        step: optimizer steps so far.
        metrics: the metrics of the step.
        trajectories: all that were played, at least one.
        comparable: whether the prompts were drawn as those of any other step.
    """
    scored = [t for t in trajectories if t.is_scored]
    outcomes = [outcome(t) for t in scored]
    groups = [[outcome(t) for t in group] for group in by_group(scored)]
    spans = [max(values) - min(values) for values in groups]
    levels = any("level" in t.reset_info for t in trajectories)
    clipped = metrics.get("clip_ratio/region_mean", metrics.get("train/clip_fraction"))
    entropy = metrics.get("entropy")
    return StepFacts(
        step=step,
        completions=len(trajectories),
        scored=len(scored),
        judged=bool(scored) and all(t.is_correct is not None for t in scored),
        low=min(outcomes, default=0.0),
        high=max(outcomes, default=0.0),
        groups=tuple(float(np.mean(values)) for values in groups),
        uniform=sum(span <= TOLERANCE for span in spans),
        grouped=any(len(values) > 1 for values in groups),
        cut=sum(bool(t.completion_truncated) for t in trajectories),
        comparable=comparable and not levels,
        entropy=None if entropy is None else entropy * metrics["completions/mean_length"],
        mismatch=metrics.get("sampling/logprob_difference/max"),
        clipped=clipped,
    )


Course = Sequence[StepFacts]
"""The facts of all steps of a training so far."""


def last(course: Course, completions: int, steps: int = 1) -> list[StepFacts]:
    """The last steps that together have so many completions; empty if there are fewer so far.

    Args:
        course: all steps.
        completions: the least number of completions.
        steps: the least number of steps.
    """
    found = _first(list(reversed(course)), completions, steps)
    return found[::-1]


def first(course: Course, completions: int, steps: int = 1) -> list[StepFacts]:
    """The first steps that together have so many completions; see `last`."""
    return _first(course, completions, steps)


def _first(course: Course, completions: int, steps: int) -> list[StepFacts]:
    seen = 0
    for count, facts in enumerate(course, 1):
        seen += facts.completions
        if seen >= completions and count >= steps:
            return list(course[:count])
    return []


def group_means(window: Sequence[StepFacts]) -> np.ndarray:
    """The mean outcome of each group of some steps, in order."""
    return np.array([value for facts in window for value in facts.groups])


def is_solved(window: Sequence[StepFacts], share: float) -> bool:
    """Whether outcomes are near the best: right, or near the highest reward that was seen.

    Args:
        window: some steps.
        share: how near, as a share of the best outcome.
    """
    means = group_means(window)
    best = 1.0 if all(f.judged for f in window) else max(f.high for f in window)
    return bool(len(means)) and best > 0 and float(means.mean()) >= share * best
