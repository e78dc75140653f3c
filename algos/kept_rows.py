"""Rows whose keys and values are kept from one turn of an episode to the next."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np

from textenv.algos import backend

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
from mlx.utils import tree_flatten  # noqa: E402

from textenv.algos.decoding import Batch  # noqa: E402
from textenv.algos.forks import held  # noqa: E402


class KeptRows:
    """Batches of rows that have ended, found again by their tokens.

    Args:
        model: whose keys they are; where its weights have changed, there is nothing to be found.
        most: rows to keep; what comes beyond is let go.
    """

    def __init__(self, model: nn.Module, most: int):
        self._model, self._most = model, most
        self.clear()

    def __len__(self) -> int:
        return sum(len(places) for places in self._places.values())

    def clear(self) -> None:
        """Let all of them go."""
        self._batches: list[Batch] = []
        self._places: dict[bytes, list[tuple[int, int]]] = {}  # by the tokens: batch, place
        self._weights: Weights | None = None

    def add(self, batch: Batch, sequences: Mapping[int, Sequence[int]], weights: Weights) -> None:
        """Keep the rows of a batch.

        Args:
            batch: of a call whose rows have ended, from `Batch.ended`.
            sequences: the tokens of each of its rows, prompt and completion.
            weights: of the model as it was then.
        """
        self._weights = weights
        room = self._most - len(self)
        places = np.flatnonzero(batch.rows >= 0)
        if len(places) > room:
            if not room:
                return
            kept = np.zeros(len(batch.rows), bool)
            kept[places[:room]] = True
            batch = batch.take(kept)
            places = np.flatnonzero(batch.rows >= 0)
        for place in places:
            key = _key(sequences[batch.rows[place]])
            self._places.setdefault(key, []).append((len(self._batches), int(place)))
        self._batches.append(batch)
        mx.async_eval(*held(batch.caches))  # what they were taken from is let go

    def take(self, prompts: Sequence[Sequence[int]]) -> Batch | None:
        """The rows that some of the prompts go on from, in one batch; nothing is kept after that.

        Args:
            prompts: each goes on from a row where it begins with all of its tokens and has more.

        Returns:
            A batch whose rows are indices of prompts, without logits; None where there are none.
        """
        batches, places = self._batches, self._places
        same = self._weights is not None and self._weights.are_those_of(self._model)
        self.clear()
        if not same:
            return None
        for batch in batches:
            batch.rows = np.full(len(batch.rows), -1)
        lengths = sorted({len(key) for key in places}, reverse=True)
        for i, prompt in enumerate(prompts):
            data = _key(prompt)
            for length in lengths:
                found = places.get(data[:length]) if length < len(data) else None
                if found:
                    index, place = found.pop()
                    batches[index].rows[place] = i
                    break
        batches = [batch for batch in batches if (batch.rows >= 0).any()]
        if not batches:
            return None
        # A prompt's rows may have ended at different times: they stand together again.
        group = max(batch.per_prompt for batch in batches)
        joined = reduce(Batch.join, [batch.take(batch.rows >= 0, group) for batch in batches])
        return joined if len(batches) == 1 else joined.take(joined.rows >= 0)


class Weights:
    """Weights of a model at some time, to be recognised later without a copy of them."""

    def __init__(self, model: nn.Module):
        arrays = _arrays(model)
        self._names = [name for name, _ in arrays]
        self._arrays = [weakref.ref(array) for _, array in arrays]
        self._sums = _sums(arrays)

    def are_those_of(self, model: nn.Module) -> bool:
        """Whether a model's weights are the same arrays with the same numbers in them."""
        arrays = _arrays(model)
        return (
            self._names == [name for name, _ in arrays]
            and all(ref() is array for ref, (_, array) in zip(self._arrays, arrays))
            and np.array_equal(self._sums, _sums(arrays))
        )


def _arrays(model: nn.Module) -> list[tuple[str, mx.array]]:
    arrays: Any = tree_flatten(model.parameters())
    return arrays


def _sums(arrays: list[tuple[str, mx.array]]) -> np.ndarray:
    """The sum of each array's bits: any one number that is written into it changes that."""
    types = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32, 8: mx.uint64}
    bits = [array.view(types[array.dtype.size]) for _, array in arrays]
    return np.array(mx.stack([mx.sum(b).astype(mx.uint64) for b in bits]))


def _key(tokens: Sequence[int]) -> bytes:
    return np.asarray(tokens, np.int32).tobytes()
