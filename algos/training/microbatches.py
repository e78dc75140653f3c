"""Cuts an update into microbatches, whose trajectories go through the model together.

Shapes: N trajectories, T tokens.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from textenv.algos.lm.scoring.batch import BatchSize, TokenBatch

_LEAST_SAVED = 1024  # a further part has a cost, so it must save at least this many tokens
_AS_MUCH = 1024  # with so many columns attention costs about as much as the rest of a layer


class MicroBatch(NamedTuple):
    """Trajectories that go through the model together."""

    batch: TokenBatch
    advantages: np.ndarray
    """(N,), or (N, T) for single tokens."""
    batch_size: BatchSize | None
    """The size of the optimizer step's whole batch; None if the loss does not take it."""
    ref_logprobs: np.ndarray | None
    """(N, T), under the reference policy; None if the loss does not take them."""
    dropout_seed: int | None = None
    """Seed of what adapters drop; None: nothing."""


class LossResult(NamedTuple):
    """The loss of one microbatch, and what was measured beside it."""

    loss: float
    metrics: dict[str, float]
    logprob_difference: float
    """The largest difference of a token's log-probability from the sampler's."""


class GradientResult(NamedTuple):
    """The losses of some microbatches, and the gradient of their sum."""

    results: list[LossResult]
    gradient: dict[str, np.ndarray]
    """By the names of the weights; bfloat16 is given as its bits, in uint16."""


def split(batch: TokenBatch, rows: np.ndarray, count: int, longest: int | None) -> list[np.ndarray]:
    """Cut rows into parts that go through the model one after another.

    In attention the rows of a part are padded to its longest completion. So short and long
    completions are separated if that saves more than it costs to compute a prompt in both parts.
    Groups with trees stay whole.

    Args:
        batch: the batch that the rows are of.
        rows: ascending, so that equal prompts stand together.
        count: the least number of parts.
        longest: the largest number of rows in a part; None: no limit.

    Returns:
        Parts, each ascending, which hold every row once.
    """
    buckets = _by_length(batch, rows)
    size = sum(map(len, buckets)) / count
    return [part for bucket in buckets for part in _cut(batch, bucket, size, longest)]


def _by_length(batch: TokenBatch, rows: np.ndarray) -> list[np.ndarray]:
    lengths = batch.needed[rows]
    if batch.parent is not None:
        _, group = np.unique(batch.group_ids[rows], return_inverse=True)
        longest = np.zeros(group.max() + 1, int)
        np.maximum.at(longest, group, lengths)
        lengths = longest[group]
    prompts = np.array([len(prompt) for prompt in batch.prompts])
    columns = prompts.max() + lengths.max()
    # Through attention goes all padding; through the rest of a layer that of trees alone.
    of_padding = 1.0 if batch.parent is not None else min(1.0, columns / _AS_MUCH)

    def cost(some: np.ndarray) -> float:
        """Tokens computed, and padding by what it costs in tokens."""
        own = prompts[np.unique(batch.prompt_index[rows[some]])].sum() + lengths[some].sum()
        padding = len(some) * int(lengths[some].max()) - lengths[some].sum()
        return float(own + of_padding * padding)

    order = np.argsort(lengths, kind="stable")
    whole = cost(order)
    best, cuts = whole - max(_LEAST_SAVED, whole / 8), None
    for bound in np.unique(lengths)[1:]:
        first = int(np.searchsorted(lengths[order], bound))
        total = cost(order[:first]) + cost(order[first:])
        if total < best:
            best, cuts = total, first
    if cuts is None:
        return [rows]
    halves = np.sort(order[:cuts]), np.sort(order[cuts:])
    return [part for half in halves for part in _by_length(batch, rows[half])]


def _cut(batch: TokenBatch, rows: np.ndarray, size: float, longest: int | None) -> list[np.ndarray]:
    """Cut into parts of about ``size`` rows, between two prompts if that is nearly as even."""
    count = max(1, round(len(rows) / size))
    if longest is not None:
        count = max(count, -(-len(rows) // longest))
    bounds = np.linspace(0, len(rows), min(count, len(rows)) + 1).round().astype(int)
    if batch.parent is not None:
        between = np.flatnonzero(np.diff(batch.group_ids[rows])) + 1
        ends = np.array([0, *between, len(rows)])
        bounds = np.unique(ends[np.abs(ends - bounds[:, None]).argmin(axis=1)])
        return [rows[a:b] for a, b in itertools.pairwise(bounds)]
    between = np.flatnonzero(np.diff(batch.prompt_index[rows])) + 1
    if longest is None and len(between):
        for i in range(1, len(bounds) - 1):
            nearest = between[np.abs(between - bounds[i]).argmin()]
            if abs(nearest - bounds[i]) <= size / 8:  # else a prompt is computed twice
                bounds[i] = nearest
    return [rows[a:b] for a, b in itertools.pairwise(bounds) if a < b]
