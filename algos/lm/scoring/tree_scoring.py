"""The hidden states of a tree: what trajectories share goes through the model once.

A row of the batch has what is its own, from where it branches off. Rows go through level by level:
those without a parent first, then their children, and so on. A row goes on from the keys and values
of its path, which are taken out of those of the levels before, so that gradients flow to them; its
first token is predicted by the last hidden state of its path.

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
    """The tokens of a batch that are scored."""

    hidden: mx.array
    """(M, D) what predicts each."""
    rows: np.ndarray
    """(M,)."""
    columns: np.ndarray
    """(M,) positions in ``token_ids``."""

    def places(self, batch: TokenBatch) -> np.ndarray:
        """(N, T) which of them each token is, in whatever row it is scored; 0 for others."""
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
    """What predicts the tokens of the mask.

    Args:
        model: that can share prompts (`textenv.algos.lm.models.architecture.check_architecture`).
        body: tokens and caches -> hidden states.
        batch: with a tree.
        caches: of each layer, after the prompts went through.
        last: (P, D) the prompts' last hidden states.
    """
    assert batch.parent is not None and batch.start is not None
    parent, start = batch.parent, batch.start
    inputs = _inputs(batch)
    # Where each row's columns are among those of all levels, one after another.
    base = np.zeros(len(batch), np.int64)
    known: list[list[mx.array]] = [[] for _ in caches]  # keys and values
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
    if not len(rows):  # nothing counts: any will do
        rows, columns = np.array([0]), np.array([0])
    source = len(batch.prompts) + base[rows] + columns - start[rows] - 1
    first = columns == start[rows]
    above = parent[rows]
    of_path = len(batch.prompts) + base[above] + start[rows] - 1 - start[above]
    source = np.where(first, np.where(above < 0, batch.prompt_index[rows], of_path), source)
    return Scored(mx.concatenate(hidden)[mx.array(source)], rows, columns)


def _inputs(batch: TokenBatch) -> np.ndarray:
    """(N,) how many of its own tokens of each row something is predicted from."""
    assert batch.parent is not None and batch.start is not None
    width = batch.mask.shape[1]
    ends = np.where(
        batch.mask.any(axis=1), width - np.argmax(batch.mask[:, ::-1] > 0, axis=1) - 1, 0
    )
    children = np.flatnonzero(batch.parent >= 0)
    np.maximum.at(ends, batch.parent[children], batch.start[children])
    return np.maximum(ends - batch.start, 0)


def _levels(parent: np.ndarray) -> list[np.ndarray]:
    """Rows without a parent, their children, and so on; each ascending."""
    levels = [np.flatnonzero(parent < 0)]
    while len(levels[-1]):
        levels.append(np.flatnonzero(np.isin(parent, levels[-1])))
    return levels[:-1]


def _paths(batch: TokenBatch, slots: np.ndarray, base: np.ndarray, longest: int) -> np.ndarray:
    """(B, A) the column, of all levels, of each token that the rows of a level share."""
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
    """Forks that begin with the columns of paths (B, A), of so many tokens (B,)."""
    holes = np.arange(paths.shape[1]) >= lengths[:, None]
    index, positions, begun = mx.array(paths.reshape(-1)), None, []
    for fork, (keys, values) in zip(forks, known):
        assert isinstance(fork, ForkedCache)
        if positions is None:
            first = fork.positions.start - mx.array(holes.sum(axis=1))
            positions = RowPositions(first, fork.positions.padding, holes)
        begun.append(fork.begun(keys[index], values[index], positions))
    return list(begun)
