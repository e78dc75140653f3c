"""Intervals, pass@k and paired tests, for answers that one or several samples gave.

Examples are drawn independently of each other; samples of one example are not. So every interval
and every test goes over examples.

- Shares (accuracy, mean@k, pass@k): the interval of Wilson 1927, which stays within 0 and 1, and
  has a width even if all answers are right. With several samples of an example it takes the
  effective number of answers, as for the clusters of a survey (Franco et al. 2019, "Comparative
  Study of Confidence Intervals for Proportions in Complex Sample Surveys").
- Means of rewards: the percentile bootstrap over examples, since a reward may have any
  distribution, for which a t interval would be wrong. Rewards that are all 0 or 1 are shares.
- pass@k: the unbiased estimator of Chen et al. 2021 (arXiv 2107.03374), section 2.1.
- Two models on the same examples: McNemar's exact test for single answers, and the test that flips
  the signs of the differences otherwise; the interval of Agresti and Min 2005, or the bootstrap.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from textenv.errors import ConfigError

CONFIDENCE = 0.95
"""How often an interval holds the true value."""
REPETITIONS = 5_000
"""How often examples are drawn again by the bootstrap, and signs are flipped by the test."""
_AT_ONCE = 2_000_000  # numbers that a bootstrap holds in memory at a time
_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


class Interval(NamedTuple):
    """The ends of a confidence interval."""

    low: float
    high: float


def wilson_interval(share: float, count: float) -> Interval:
    """The interval of a share of so many independent answers (Wilson 1927).

    Args:
        share: the share that was found, 0 to 1.
        count: of how many answers; it need not be a whole number.

    Example:
        >>> [round(end, 3) for end in wilson_interval(0.5, 10)]
        [0.237, 0.763]
    """
    centre = share + _Z**2 / (2 * count)
    half = _Z * math.sqrt(share * (1 - share) / count + (_Z / (2 * count)) ** 2)
    scale = 1 + _Z**2 / count
    return Interval(
        (centre - half) / scale if share > 0 else 0.0, (centre + half) / scale if share < 1 else 1.0
    )


def share_interval(shares: Sequence[float], samples: int = 1) -> Interval:
    """The interval of the mean of examples' shares; of single answers it is Wilson's.

    The effective number of answers is the one for which independent answers would have the same
    variance of the mean. It lies between the number of examples and that of all answers.

    Args:
        shares: the share of each example (N,), 0 to 1.
        samples: how many independent answers each share is of.
    """
    values = np.asarray(shares, np.float64)
    count, mean = len(values), float(values.mean())
    variance, most = float(values.var()), mean * (1 - mean)
    effective = count * most / variance if variance > 0 else count
    return wilson_interval(mean, min(max(effective, count), count * samples))


def bootstrap_interval(values: Sequence[float], seed: int = 0) -> Interval:
    """The percentile interval of a mean, by drawing the values (N,) again with replacement."""
    data = np.asarray(values, np.float64)
    rng = np.random.default_rng(seed)
    part = max(1, _AT_ONCE // len(data))
    means = [
        data[rng.integers(len(data), size=(min(part, REPETITIONS - i), len(data)))].mean(axis=1)
        for i in range(0, REPETITIONS, part)
    ]
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(np.concatenate(means), [tail, 100 - tail])
    return Interval(float(low), float(high))


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """The probability that at least one of k answers is right, without bias.

    That is 1 - C(samples - correct, k) / C(samples, k).

    Args:
        samples: how many answers there are.
        correct: how many of them are right.
        k: how many may be tried.

    Raises:
        ConfigError: if k is not from 1 to ``samples``.

    Example:
        >>> pass_at_k(4, 1, 2)
        0.5
    """
    if not 1 <= k <= samples:
        raise ConfigError(
            f"pass@{k} needs k from 1 to the {samples} sample(s) of each example: take more samples"
        )
    return 1 - math.comb(samples - correct, k) / math.comb(samples, k)


def mcnemar_test(only_first: int, only_second: int) -> float:
    """The two-sided p-value of McNemar's exact test, for two models' single answers.

    If both are equally good, each example that only one of them gets right is either one's with a
    probability of one half.

    Args:
        only_first: on how many examples only the first model is right.
        only_second: on how many only the second one is.

    Example:
        >>> mcnemar_test(1, 5)
        0.21875
    """
    count = only_first + only_second
    tail = sum(math.comb(count, i) for i in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**count)


def difference_interval(only_first: int, only_second: int, examples: int) -> Interval:
    """The interval of the second share minus the first, for two models' single answers.

    It is that of Agresti and Min 2005: half an example is added to each of the four counts, so that
    the interval has a width if the models never differ.

    Args:
        only_first: on how many examples only the first model is right.
        only_second: on how many only the second one is.
        examples: of how many examples.
    """
    count, first, second = examples + 2, only_first + 0.5, only_second + 0.5
    centre = (second - first) / count
    half = _Z * math.sqrt(first + second - (second - first) ** 2 / count) / count
    return Interval(max(-1.0, centre - half), min(1.0, centre + half))


def sign_flip_test(differences: Sequence[float], seed: int = 0) -> float:
    """The two-sided p-value that paired differences (N,) have a mean of 0.

    If both models are equally good, each difference could as well have the other sign. All signs
    are tried if they are few, and `REPETITIONS` random ones otherwise.
    """
    own = np.asarray([value for value in differences if value != 0], np.float64)
    if not len(own):
        return 1.0
    found = abs(own.sum()) * (1 - 1e-12)  # sums of equal numbers in another order count as equal
    if 2 ** len(own) <= REPETITIONS:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(own))))
        return float((np.abs(signs @ own) >= found).mean())
    rng = np.random.default_rng(seed)
    part = max(1, _AT_ONCE // len(own))
    reached = 0
    for i in range(0, REPETITIONS, part):
        signs = rng.choice((-1.0, 1.0), size=(min(part, REPETITIONS - i), len(own)))
        reached += int((np.abs(signs @ own) >= found).sum())
    return (1 + reached) / (1 + REPETITIONS)
