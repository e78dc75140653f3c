"""How rows that continue the same prompts are laid out, so that each prompt is held once.

Shapes: N rows to continue, P prompts, G places for continuations of each.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402

from textenv.algos.lm.cache.kv_cache import (  # noqa: E402
    ForkedCache,
    GrowingCache,
    frame_alone,
    frame_of,
)
from textenv.algos.lm.cache.positions import Frame  # noqa: E402

Cache = ForkedCache | GrowingCache

_MOST_IDLE = 1.5  # places for each row, beyond which a prompt is held more than once


class Layout(NamedTuple):
    """Where each row is."""

    prompts: np.ndarray | None
    """(P,) which prompts, in order, some of them repeatedly; None: all of them, as they are."""
    per_prompt: int
    """G."""
    slots: np.ndarray
    """(P x G,) the row in each place; -1 where there is none."""

    @property
    def places(self) -> np.ndarray:
        """(N,) the place of each row; of rows that are in one."""
        taken = np.flatnonzero(self.slots >= 0)
        return taken[np.argsort(self.slots[taken], kind="stable")]

    @property
    def is_identity(self) -> bool:
        """Whether row i is in place i."""
        return np.array_equal(self.slots, np.arange(len(self.slots)))


def lay_out(
    prompt_index: np.ndarray,
    num_prompts: int,
    shared: bool = True,
    per_prompt: int | None = None,
) -> Layout:
    """Places for rows.

    Args:
        prompt_index: (N,) the prompt that each row continues.
        num_prompts: how many prompts there are.
        shared: whether continuations can share a prompt; else each row has its own.
        per_prompt: G, from `best_group`; None: what is best for these.
    """
    used, counts = np.unique(prompt_index, return_counts=True)
    group = per_prompt or best_group(counts)
    if not shared or group == 1:
        return Layout(np.asarray(prompt_index), 1, np.arange(len(prompt_index)))
    repeats = -(-counts // group)
    prompts = np.repeat(used, repeats)
    slots = np.full(len(prompts) * group, -1)
    firsts = (np.cumsum(repeats) - repeats) * group
    for first, prompt, count in zip(firsts, used, counts):
        slots[first : first + count] = np.flatnonzero(prompt_index == prompt)
    whole = np.array_equal(prompts, np.arange(num_prompts))
    return Layout(None if whole else prompts, group, slots)


def best_group(counts: np.ndarray, prompt_cost: float = 1.0) -> int:
    """G: so many places a prompt that few are idle and few prompts are held repeatedly.

    Args:
        counts: rows of each prompt.
        prompt_cost: of holding a prompt once more, in places.
    """
    sizes = np.arange(1, counts.max() + 1)
    held = -(-counts // sizes[:, None]).sum(axis=1)  # prompts, for each G
    places = held * sizes
    cost = places + float(prompt_cost) * held
    cost[places > _MOST_IDLE * counts.sum()] = np.inf
    return int(sizes[len(cost) - 1 - np.argmin(cost[::-1])])


def fork_caches(
    model: nn.Module,
    prompts: Sequence[GrowingCache],
    layout: Layout,
    room: int = 0,
    alone: bool = False,
) -> list[Cache]:
    """Caches in which each place of a layout goes on from its prompt.

    Args:
        model: which `textenv.algos.lm.models.probe.check_cache` has found out about.
        prompts: of each layer, after the prompts went through.
        layout: from `lay_out`.
        room: columns to allocate at a time; 0: gradients flow through them.
        alone: whether each prompt has one place, which takes its columns for its own.
    """
    if layout.prompts is not None and not np.array_equal(
        layout.prompts, np.arange(len(prompts[0].padding))
    ):
        index = mx.array(layout.prompts)
        prompts = [cache.gather(index) for cache in prompts]
    if not model.shares_prompts:
        return list(prompts)
    if alone:
        frame = frame_alone(prompts[0])
        return [ForkedCache.alone(cache, room, frame) for cache in prompts]
    frame = frame_of(prompts[0], layout.per_prompt)
    return [ForkedCache(cache, layout.per_prompt, room, frame) for cache in prompts]


def take_places(
    caches: Sequence[Cache],
    prompts: np.ndarray,
    places: np.ndarray,
    per_prompt: int,
    lengths: np.ndarray | None = None,
) -> tuple[list[Cache], int]:
    """Caches of some places, with a copy of them, and the first of the old columns that is kept.

    Args:
        caches: of each layer.
        prompts: (P',) which prompts, each as often as its rows need.
        places: (P' x G',) which of the old places each new one was; one may be taken repeatedly.
        per_prompt: G'.
        lengths: (P' x G',) how many tokens of each are taken, prompt included; None: all.
    """
    index, forks = mx.array(places), _forked(caches)
    if not forks:
        return [cache.gather(index) for cache in _growing(caches)], 0
    frame, columns, group = forks[0].frame, forks[0].columns, forks[0].per_prompt
    whole = np.array_equal(prompts * group, np.arange(0, frame.start.shape[0], group))
    kept = None if whole else mx.array(prompts)
    padding = frame.padding if kept is None or frame.padding is None else frame.padding[kept]
    new = frame.take(places, (0, columns), columns, padding)
    if lengths is not None:
        new = new.cut(lengths, columns)
    stretch = new.stretch(columns)
    new = new.take(np.arange(len(places)), stretch, columns, padding)
    return [cache.take(kept, index, per_prompt, stretch, new) for cache in forks], stretch[0]


def join_caches(first: Sequence[Cache], second: Sequence[Cache]) -> list[Cache]:
    """Caches of the rows of two batches, of as many places for each prompt."""
    if _growing(first):
        return [a.join(b) for a, b in zip(_growing(first), _growing(second))]
    forks = _forked(first), _forked(second)
    a, b = forks[0][0], forks[1][0]
    padding = None
    if a.prompts is not None and b.prompts is not None:
        prompts = a.prompts.join(b.prompts)
        padding = prompts.padding if prompts.padded else None
    frame = a.frame.join(b.frame, (a.columns, b.columns), padding)
    return [one.join(other, frame) for one, other in zip(*forks)]


def with_frame(caches: Sequence[Cache], frame: Frame) -> list[Cache]:
    """The same caches of forks in another frame."""
    copies = [copy.copy(cache) for cache in _forked(caches)]
    for cache in copies:
        cache.frame = frame
    return list(copies)


def held(caches: Sequence[Cache]) -> list[mx.array]:
    """The arrays in caches of a batch."""
    forks = _forked(caches)
    parts = [*_growing(caches), *(fork.prompts for fork in forks if fork.prompts is not None)]
    arrays = [array for part in parts for array in (part.keys, part.values)]
    arrays += [array for fork in forks for array in (fork._keys, fork._values)]
    return [array for array in arrays if array is not None]


def _forked(caches: Sequence[Cache]) -> list[ForkedCache]:
    return [cache for cache in caches if isinstance(cache, ForkedCache)]


def _growing(caches: Sequence[Cache]) -> list[GrowingCache]:
    return [cache for cache in caches if isinstance(cache, GrowingCache)]
