"""How rows that continue the same prompts are laid out, so that each prompt is held once.

Shapes: N rows to continue, P prompts, G places for continuations of each.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

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
