"""Computes the hidden states of a tree, in which shared tokens go through the model once.

Each row of the batch computes only its own tokens, from the point where it branches off. Rows go
through the model level by level: first those without a parent, then their children, and so on. A
row continues the keys and values of its path, which are taken from the levels before, so that
gradients flow to them. The last hidden state of the path predicts the row's first own token.

Shapes: N rows, P prompts, B places of a level, A longest path of a level, W columns that a level
adds, M tokens that are scored, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from textenv.algos.lm.scoring.batch import TokenBatch
from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402

from textenv.algos.lm.cache.forking import fork_caches  # noqa: E402
from textenv.algos.lm.cache.kv_cache import ForkedCache, GrowingCache  # noqa: E402
from textenv.algos.lm.cache.layout import lay_out  # noqa: E402
from textenv.algos.lm.cache.positions import RowPositions  # noqa: E402


class Scored(NamedTuple):
    """The tokens of a batch that are scored, and the hidden states that predict them."""

    hidden: mx.array
    """(M, D) the hidden state that predicts each token."""
    rows: np.ndarray
    """(M,) the row of each token."""
    columns: np.ndarray
    """(M,) the column of each token in ``token_ids``."""

    def places(self, batch: TokenBatch) -> np.ndarray:
        """(N, T) the number in ``hidden`` of each token, own or shared; 0 if it is not scored."""
        assert batch.parent is not None and batch.start is not None
        places = np.zeros(batch.token_ids.shape, np.int64)
        places[self.rows, self.columns] = np.arange(len(self.rows))
        for level in _levels(batch.parent)[1:]:
            for row in level:
                shared = batch.start[row]
                places[row, :shared] = places[batch.parent[row], :shared]
        return places


def tree_hidden(
    model: nn.Module,
    body: Callable[..., mx.array],
    batch: TokenBatch,
    caches: Sequence[GrowingCache],
    last: mx.array,
) -> Scored:
    """The hidden states that predict the tokens of a batch's mask.

    Args:
        model: a model that can share prompts, see `textenv.algos.lm.models.architecture`.
        body: a function of tokens and caches that gives hidden states.
        batch: a batch with a tree.
        caches: the cache of each layer, after the prompts went through.
        last: (P, D) the prompts' last hidden states.
    """
    assert batch.parent is not None and batch.start is not None
    parent, start = batch.parent, batch.start
    inputs = _inputs(batch)
    # The first column of each row, if the columns of all levels stand one after another.
    base = np.zeros(len(batch), np.int64)
    known: list[list[mx.array]] = [[] for _ in caches]  # keys and values of each layer
    hidden, total = [last], 0
    for level in _levels(parent):
        width = int(inputs[level].max())
        if width == 0:
            continue
        layout = lay_out(batch.prompt_index[level], len(batch.prompts))
        slots = np.where(layout.slots >= 0, level[layout.slots], -1)  # (B,) rows
        ids = np.zeros((len(slots), width), np.int32)
        for place in np.flatnonzero(slots >= 0):
            row = slots[place]
            base[row] = total + place * width
            own = batch.token_ids[row, start[row] : start[row] + inputs[row]]
            ids[place, : len(own)] = own
        forks = fork_caches(model, caches, layout)
        before = int(start[level].max())
        if before:
            paths = _paths(batch, slots, base, before)
            forks = _go_on(forks, known, paths, np.where(slots >= 0, start[slots], 0))
        out = body(mx.array(ids), forks)  # (B, W, D)
        hidden.append(out.reshape(-1, out.shape[-1]))
        total += len(slots) * width
        for arrays, fork in zip(known, forks):
            assert isinstance(fork, ForkedCache)
            new = fork.columns_from(before)
            arrays[:] = [mx.concatenate([old, more]) for old, more in zip(arrays, new)] or list(new)
    rows, columns = np.nonzero(batch.mask)
    if not len(rows):  # no token counts: any one will do
        rows, columns = np.array([0]), np.array([0])
    source = len(batch.prompts) + base[rows] + columns - start[rows] - 1
    first = columns == start[rows]
    above = parent[rows]
    of_path = len(batch.prompts) + base[above] + start[rows] - 1 - start[above]
    source = np.where(first, np.where(above < 0, batch.prompt_index[rows], of_path), source)
    return Scored(mx.concatenate(hidden)[mx.array(source)], rows, columns)


def _inputs(batch: TokenBatch) -> np.ndarray:
    """(N,) how many of its own tokens each row needs as inputs."""
    assert batch.parent is not None and batch.start is not None
    width = batch.mask.shape[1]
    ends = np.where(
        batch.mask.any(axis=1), width - np.argmax(batch.mask[:, ::-1] > 0, axis=1) - 1, 0
    )
    children = np.flatnonzero(batch.parent >= 0)
    np.maximum.at(ends, batch.parent[children], batch.start[children])
    return np.maximum(ends - batch.start, 0)


def _levels(parent: np.ndarray) -> list[np.ndarray]:
    """Rows without a parent, then their children, and so on; each level ascending."""
    levels = [np.flatnonzero(parent < 0)]
    while len(levels[-1]):
        levels.append(np.flatnonzero(np.isin(parent, levels[-1])))
    return levels[:-1]


def _paths(batch: TokenBatch, slots: np.ndarray, base: np.ndarray, longest: int) -> np.ndarray:
    """(B, A) the column, among all levels', of each token on the paths of a level's rows."""
    assert batch.parent is not None and batch.start is not None
    paths = np.zeros((len(slots), longest), np.int64)
    for place in np.flatnonzero(slots >= 0):
        end, above = batch.start[slots[place]], batch.parent[slots[place]]
        while above >= 0:
            first = batch.start[above]
            paths[place, first:end] = base[above] + np.arange(end - first)
            end, above = first, batch.parent[above]
    return paths


def _go_on(
    forks: Sequence[ForkedCache | GrowingCache],
    known: Sequence[Sequence[mx.array]],
    paths: np.ndarray,
    lengths: np.ndarray,
) -> list[ForkedCache | GrowingCache]:
    """Caches whose rows begin with their paths (B, A), each of ``lengths`` (B,) tokens."""
    holes = np.arange(paths.shape[1]) >= lengths[:, None]
    index, positions, begun = mx.array(paths.reshape(-1)), None, []
    for fork, (keys, values) in zip(forks, known):
        assert isinstance(fork, ForkedCache)
        if positions is None:
            first = fork.positions.start - mx.array(holes.sum(axis=1))
            positions = RowPositions(first, fork.positions.padding, holes)
        begun.append(fork.begun(keys[index], values[index], positions))
    return list(begun)
