"""Lays out rows that continue the same prompts, so that each prompt is held once.

Shapes: N rows to continue, P prompts, G places for continuations of each.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_MOST_IDLE = 1.5  # with more places for each row than this, prompts are held more than once


class Layout(NamedTuple):
    """Which place each row has: G places for each prompt, some of them idle."""

    prompts: np.ndarray | None
    """(P,) which prompts, in order, some of them more than once; None: all of them, as they are."""
    per_prompt: int
    """G."""
    slots: np.ndarray
    """(P x G,) the row in each place; -1 for an idle place."""

    @property
    def places(self) -> np.ndarray:
        """(N,) the place of each row that has one, in the order of rows."""
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
    """A layout for rows.

    Args:
        prompt_index: (N,) the prompt that each row continues.
        num_prompts: how many prompts there are.
        shared: whether rows can share a prompt; if not, each row has its own.
        per_prompt: G, from `best_group`; None: the best for these rows.
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
    """The number G of places for each prompt that leaves few idle and repeats few prompts.

    Args:
        counts: how many rows each prompt has.
        prompt_cost: what it costs to hold a prompt once more, in places.
    """
    sizes = np.arange(1, counts.max() + 1)
    held = -(-counts // sizes[:, None]).sum(axis=1)  # prompts, for each G
    places = held * sizes
    cost = places + float(prompt_cost) * held
    cost[places > _MOST_IDLE * counts.sum()] = np.inf
    return int(sizes[len(cost) - 1 - np.argmin(cost[::-1])])
