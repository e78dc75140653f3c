"""How rows that continue the same prompts are laid out, so that each prompt is held once.

Shapes: N rows to continue, P prompts, G places for continuations of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from textenv.algos import backend

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402

from textenv.algos.kv_cache import ForkedCache, GrowingCache  # noqa: E402

Cache = ForkedCache | GrowingCache

_MOST_IDLE = 1.5  # places for each row, beyond which prompts are copied rather than shared


class Layout(NamedTuple):
    """Where each row is."""

    prompts: np.ndarray | None
    """(P,) which prompts, in order; None: all of them, as they are."""
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


def lay_out(prompt_index: np.ndarray, num_prompts: int, shared: bool = True) -> Layout:
    """Places for rows.

    Args:
        prompt_index: (N,) the prompt that each row continues.
        num_prompts: how many prompts there are.
        shared: whether continuations can share a prompt; else each row has its own.
    """
    used, counts = np.unique(prompt_index, return_counts=True)
    group = int(counts.max())
    if not shared or len(used) * group > _MOST_IDLE * len(prompt_index):
        return Layout(np.asarray(prompt_index), 1, np.arange(len(prompt_index)))
    slots = np.full((len(used), group), -1)
    for row_of_slots, prompt in zip(slots, used):
        rows = np.flatnonzero(prompt_index == prompt)
        row_of_slots[: len(rows)] = rows
    return Layout(None if len(used) == num_prompts else used, group, slots.reshape(-1))


def fork_caches(
    model: nn.Module, prompts: Sequence[GrowingCache], layout: Layout, room: int = 0
) -> list[Cache]:
    """Caches in which each place of a layout goes on from its prompt.

    Args:
        model: which `textenv.algos.architectures.check_cache` has found out about.
        prompts: of each layer, after the prompts went through.
        layout: from `lay_out`.
        room: columns that will be added, to allocate them; 0: gradients flow through them.
    """
    if layout.prompts is not None:
        index = mx.array(layout.prompts)
        prompts = [cache.gather(index) for cache in prompts]
    if not model.shares_prompts:
        return list(prompts)
    return [ForkedCache(cache, layout.per_prompt, room) for cache in prompts]
