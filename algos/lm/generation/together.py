"""Decodes completions of one prompt as one row for as long as they are equal.

A policy that is nearly sure of its answers draws the same tokens for most completions of a group.
Until two of them differ, their keys, values and logits are the same, so the model computes them
once. Each draws from the one distribution with its own noise. Where they differ, the row forks.
What is drawn is what each completion would have drawn in a row of its own.

To know which rows fork, each step waits for what the step before drew, and rows are laid out anew
where they fork. That is worth it if a step takes long: for large models on a CPU. A GPU decodes one
row in about the time of many.

Shapes: R completions that go on, B places of a batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from textenv.algos.lm.generation.sampling import SamplingParams
from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402

from textenv.algos.lm.generation.decode_step import draw_tokens  # noqa: E402
from textenv.algos.lm.generation.rows import DecodeBatch, Samples  # noqa: E402

_WORTH = 0.9  # completions part for good once they take more than this share of rows


@dataclass
class Members:
    """Completions that are decoded, some of them in one place."""

    rows: np.ndarray
    """(R,) the row of each."""
    places: np.ndarray
    """(R,) the place of a batch that decodes it."""
    going: np.ndarray
    """(R,) bool, whether it has more tokens to come."""


def decode_together(
    batch: DecodeBatch,
    members: Members,
    samples: Samples,
    params: SamplingParams,
    forward: Callable[[mx.array, DecodeBatch], mx.array],
    tell: Callable[[], None],
) -> DecodeBatch | None:
    """Decode completions in common rows, until few rows have more than one.

    Args:
        batch: one place for each prompt, with its logits.
        members: the completions, each in the place of its prompt.
        samples: takes what is drawn.
        params: the sampling distribution.
        forward: runs the model on tokens (B, 1) in the places of a batch; gives logits (B, V).
        tell: called after each step, when completions may have ended.

    Returns:
        A batch of the completions that go on, each in a place of its own; None if all have ended.
    """
    while True:
        noise, places = samples.noise(members, 1)[0], mx.array(members.places)
        samples.add(members, [draw_tokens(batch.logits, noise, params, places)])
        tell()
        rows, old = members.rows[members.going], members.places[members.going]
        if not len(rows):
            return None
        tokens = samples.tokens[rows, samples.made[rows] - 1]
        # A row for each place and token; its first completion stands for the others.
        _, first, fork = np.unique(
            np.stack([old, tokens]), axis=1, return_index=True, return_inverse=True
        )
        apart = len(first) > _WORTH * len(rows)
        leaders = np.arange(len(rows)) if apart else first
        batch = batch.copies_of(old[leaders], rows[leaders])
        place = np.zeros(int(rows.max()) + 1, np.int64)
        filled = np.flatnonzero(batch.rows >= 0)
        place[batch.rows[filled]] = filled
        ids = np.zeros(len(batch.rows), np.int32)
        ids[place[rows[leaders]]] = tokens[leaders]
        batch.logits = forward(mx.array(ids)[:, None], batch)
        if apart:
            return batch
        members = Members(rows, place[rows[leaders]][fork.reshape(-1)], np.ones(len(rows), bool))
