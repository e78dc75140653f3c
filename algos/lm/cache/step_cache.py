"""A cache for one decoding step that `mx.compile` can take.

Shapes: as in `textenv.algos.lm.cache.kv_cache`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402

from textenv.algos.lm.cache.by_prompt import (  # noqa: E402
    attend_by_prompt,
    by_prompt,
    split_mask,
)
from textenv.algos.lm.kernels.attention import KeyBlock  # noqa: E402


class StepPlace(NamedTuple):
    """Where in the columns a step is; the same for all layers."""

    position: mx.array
    """The column of the new token, as an array."""
    offset: mx.array
    """(B,) the position of the new token in each row."""
    over_own: mx.array
    """What is added to the scores of the rows' own columns, of which the new one is seen."""
    over_prompt: mx.array | None
    """What is added to the scores of the prompts' columns."""
    per_prompt: int
    """G, the number of continuations of each prompt."""


class StepCache:
    """A `ForkedCache` that takes one more column, whose number is an array.

    Args:
        place: where the step is.
        shared: keys and values of the prompts, from `ForkedCache.shared`.
        own: keys and values of the rows, from `ForkedCache.own`; they have room for the column.
    """

    def __init__(self, place: StepPlace, shared: Sequence[mx.array], own: Sequence[mx.array]):
        self._place, self._shared = place, shared
        self.own = own
        self.offset = place.offset

    def make_mask(
        self, n: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | None:
        """See `ForkedCache.make_mask`."""
        if window_size is None:
            return None
        count, place = self.offset.shape[0], self._place
        columns = place.over_own.shape[-1]
        own = mx.broadcast_to(
            place.over_own, (count // place.per_prompt, 1, place.per_prompt, 1, 1, columns)
        ).reshape(count, columns)
        parts = [own >= 0]
        if self._shared:
            width = self._shared[0].shape[2]
            prompt = mx.ones((count, width), dtype=mx.bool_)
            if place.over_prompt is not None:
                seen = place.over_prompt.reshape(-1, width) >= 0
                prompt = mx.repeat(seen, place.per_prompt, axis=0)
            parts.insert(0, prompt)
        filled = mx.concatenate(parts, axis=1)
        counted = mx.cumsum(filled.astype(mx.int32), axis=1)  # the query's own column is the last
        return (filled & (counted > counted[:, -1:] - window_size))[:, None, None]

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write keys and values (B, H, 1, D) into the column, and return them."""
        at = self._place.position.reshape(1)
        self.own = [
            mx.slice_update(held, by_prompt(new, self._place.per_prompt), at, axes=[3])
            for held, new in zip(self.own, (keys, values))
        ]
        return keys, values

    def attend(self, queries: mx.array, scale: float, mask: mx.array | None) -> mx.array:
        """See `ForkedCache.attend`."""
        place = self._place
        over_own, over_prompt, columns = place.over_own, place.over_prompt, place.over_own.shape[-1]
        if mask is not None:
            width = self._shared[0].shape[2] if self._shared else 0
            over_prompt, over_own = split_mask(mask, place.per_prompt, width)
        keys, values = (array[..., :columns, :] for array in self.own)
        own = KeyBlock(keys, values, over_own)
        return attend_by_prompt(queries, scale, own, self._shared, over_prompt)
