"""Makes, joins and thins out the caches of all layers, in which rows share their prompts.

Shapes: as in `textenv.algos.lm.cache.layout`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np

from textenv.algos.lm.cache.layout import Layout
from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402

from textenv.algos.lm.cache.kv_cache import (  # noqa: E402
    ForkedCache,
    GrowingCache,
    positions_alone,
    positions_of,
)
from textenv.algos.lm.cache.positions import RowPositions  # noqa: E402

Cache = ForkedCache | GrowingCache


def fork_caches(
    model: nn.Module,
    prompts: Sequence[GrowingCache],
    layout: Layout,
    room: int = 0,
    alone: bool = False,
) -> list[Cache]:
    """Caches in which each place of a layout continues its prompt.

    Args:
        model: a model that `textenv.algos.lm.models.architecture.check_architecture` has seen.
        prompts: the cache of each layer, after the prompts went through.
        layout: from `lay_out`.
        room: how many columns to allocate at a time; 0: gradients flow through the columns.
        alone: whether each prompt has one place, which takes the prompt's columns over.
    """
    if layout.prompts is not None and not np.array_equal(
        layout.prompts, np.arange(len(prompts[0].padding))
    ):
        index = mx.array(layout.prompts)
        prompts = [cache.gather(index) for cache in prompts]
    if not model.shares_prompts:
        return list(prompts)
    if alone:
        positions = positions_alone(prompts[0])
        return [ForkedCache.alone(cache, room, positions) for cache in prompts]
    positions = positions_of(prompts[0], layout.per_prompt)
    return [ForkedCache(cache, layout.per_prompt, room, positions) for cache in prompts]


def take_places(
    caches: Sequence[Cache],
    prompts: np.ndarray,
    places: np.ndarray,
    per_prompt: int,
    lengths: np.ndarray | None = None,
) -> tuple[list[Cache], int]:
    """Caches with copies of some places, and the first of the old columns that is kept.

    Args:
        caches: the cache of each layer.
        prompts: (P',) which prompts, each as often as its rows need.
        places: (P' x G',) the old place of each new one; a place may be taken many times.
        per_prompt: G'.
        lengths: (P' x G',) how many tokens of each to take, its prompt's included; None: all.
    """
    index, forks = mx.array(places), _forked(caches)
    if not forks:
        return [cache.gather(index) for cache in _growing(caches)], 0
    positions, columns, group = forks[0].positions, forks[0].columns, forks[0].per_prompt
    whole = np.array_equal(prompts * group, np.arange(0, positions.start.shape[0], group))
    kept = None if whole else mx.array(prompts)
    padding = (
        positions.padding if kept is None or positions.padding is None else positions.padding[kept]
    )
    new = positions.take(places, (0, columns), columns, padding)
    if lengths is not None:
        new = new.cut(lengths, columns)
    stretch = new.stretch(columns)
    new = new.take(np.arange(len(places)), stretch, columns, padding)
    return [cache.take(kept, index, per_prompt, stretch, new) for cache in forks], stretch[0]


def join_caches(first: Sequence[Cache], second: Sequence[Cache]) -> list[Cache]:
    """Caches of the rows of two batches with equally many places for each prompt."""
    if _growing(first):
        return [a.join(b) for a, b in zip(_growing(first), _growing(second))]
    forks = _forked(first), _forked(second)
    a, b = forks[0][0], forks[1][0]
    padding = None
    if a.prompts is not None and b.prompts is not None:
        prompts = a.prompts.join(b.prompts)
        padding = prompts.padding if prompts.padded else None
    positions = a.positions.join(b.positions, (a.columns, b.columns), padding)
    return [one.join(other, positions) for one, other in zip(*forks)]


def with_positions(caches: Sequence[Cache], positions: RowPositions) -> list[Cache]:
    """The same forked caches with other positions."""
    copies = [copy.copy(cache) for cache in _forked(caches)]
    for cache in copies:
        cache.positions = positions
    return list(copies)


def held_arrays(caches: Sequence[Cache]) -> list[mx.array]:
    """All arrays that caches hold."""
    return [array for cache in caches for array in cache.arrays]


def _forked(caches: Sequence[Cache]) -> list[ForkedCache]:
    return [cache for cache in caches if isinstance(cache, ForkedCache)]


def _growing(caches: Sequence[Cache]) -> list[GrowingCache]:
    return [cache for cache in caches if isinstance(cache, GrowingCache)]
