"""Statistics for few runs: interquartile mean, bootstrap interval, probability of improvement.

From Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice"
(arXiv 2108.13264), sections 4.1 to 4.3; their own library is rliable.

Shapes: R runs, M tasks (environments), P points of a learning curve.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

REPETITIONS = 50_000  # as in the authors' library
_CURVE_REPETITIONS = 2_000  # for each point of a curve
_AT_ONCE = 4_000_000  # numbers that a bootstrap holds in memory at a time


class Interval(NamedTuple):
    """The ends of a confidence interval."""

    low: float
    high: float


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """Mean of the scores without the lowest and the highest quarter of them.

    Of the n scores of all tasks together, ``floor(n / 4)`` are dropped at each end, as
    ``scipy.stats.trim_mean(scores, 0.25, axis=None)`` does. Of 5 runs the middle 3 remain.

    Args:
        scores: (..., R, M).

    Returns:
        (...).

    Example:
        >>> float(interquartile_mean(np.array([[0.0], [4.0], [5.0], [9.0], [1000.0]])))
        6.0
    """
    scores = np.asarray(scores, np.float64)
    pooled = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    cut = pooled.shape[-1] // 4
    return pooled[..., cut : pooled.shape[-1] - cut].mean(axis=-1)


def mean_score(scores: np.ndarray) -> np.ndarray:
    """Mean of all scores, (..., R, M) to (...)."""
    return np.asarray(scores, np.float64).mean(axis=(-2, -1))


def probability_of_improvement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Probability that a run of X scores above a run of Y on the same task; a tie counts one half.

    This is the Mann-Whitney U statistic of each task, divided by the number of its pairs, and
    averaged over the tasks.

    Args:
        x: scores of X (..., R, M).
        y: scores of Y (..., R', M).

    Returns:
        (...), 0 to 1.

    Example:
        >>> float(probability_of_improvement(np.array([[1.0], [3.0]]), np.array([[1.0], [2.0]])))
        0.625
    """
    first, second = x[..., :, None, :], y[..., None, :, :]  # pairs: (..., R, R', M)
    return ((first > second) + 0.5 * (first == second)).mean(axis=(-3, -2, -1))


def bootstrap_interval(
    statistic: Callable[..., np.ndarray],
    *scores: np.ndarray,
    confidence: float = 0.95,
    repetitions: int = REPETITIONS,
    seed: int = 0,
) -> Interval:
    """Percentile interval of a statistic by the stratified bootstrap.

    The runs are drawn again with replacement, separately for each task (a task is a stratum) and
    for each agent.

    Args:
        statistic: takes arrays (..., R, M), one for each agent, and gives (...).
        scores: scores (R, M) of each agent.
        confidence: the share of the distribution that lies within the interval.
        repetitions: how often the runs are drawn again.
        seed: seed of the draws.
    """
    rng = np.random.default_rng(seed)
    part = max(1, _AT_ONCE // sum(array.size for array in scores))
    found = []
    for start in range(0, repetitions, part):
        count = min(part, repetitions - start)
        found.append(statistic(*(_draw_again(array, count, rng) for array in scores)))
    tail = 50 * (1 - confidence)
    low, high = np.percentile(np.concatenate(found), [tail, 100 - tail])
    return Interval(float(low), float(high))


class Curve(NamedTuple):
    """A learning curve of several runs; each field has shape (P,)."""

    x: np.ndarray
    middle: np.ndarray
    """Interquartile mean of the runs, or another statistic."""
    low: np.ndarray
    high: np.ndarray


def learning_curve(
    runs: list[tuple[np.ndarray, np.ndarray]],
    x: np.ndarray,
    seed: int = 0,
    statistic: Callable[[np.ndarray], np.ndarray] = interquartile_mean,
) -> Curve:
    """Combine runs that were measured at different places to one curve with a 95% band.

    Args:
        runs: places and scores of each run. Between two places a run is a straight line.
        x: the places (P,) of the curve's points.
        seed: seed of the bootstrap.
        statistic: takes (..., R, 1) and gives (...).
    """
    scores = np.stack([np.interp(x, *run) for run in runs])  # (R, P)
    rng = np.random.default_rng(seed)
    drawn = scores[rng.integers(len(runs), size=(_CURVE_REPETITIONS, len(runs)))]
    # Each point counts as a task of its own: (..., P, R, 1).
    points = np.moveaxis(drawn, -1, -2)[..., None]
    low, high = np.percentile(statistic(points), [2.5, 97.5], axis=0)
    return Curve(x, statistic(scores.T[..., None]), low, high)


def _draw_again(scores: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the runs of each task with replacement, ``count`` times: (count, R, M)."""
    runs, tasks = scores.shape
    picked = rng.integers(runs, size=(count, runs, tasks))
    return scores[picked, np.arange(tasks)]
