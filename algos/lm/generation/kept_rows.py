"""Keeps the keys and values of rows, for later turns of an episode or for branches of a tree."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from functools import reduce

import numpy as np

from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402

from textenv.algos.lm.cache.forking import held_arrays  # noqa: E402
from textenv.algos.lm.generation.rows import DecodeBatch  # noqa: E402
from textenv.algos.lm.models.weights import WeightsStamp  # noqa: E402


class KeptRows:
    """Batches of rows that have ended, which later prompts find by their tokens.

    Args:
        model: the model that computed them; once its weights change, no row is found.
        most: how many rows to keep; further ones are dropped.
    """

    def __init__(self, model: nn.Module, most: int):
        self._model, self._most = model, most
        self.clear()

    def __len__(self) -> int:
        return sum(len(places) for places in self._places.values())

    def clear(self) -> None:
        """Drop all rows."""
        self._batches: dict[int, DecodeBatch] = {}
        self._added = 0
        self._places: dict[bytes, list[tuple[int, int]]] = {}  # tokens -> (batch, place)
        self._weights: WeightsStamp | None = None

    @property
    def alone(self) -> bool | None:
        """Whether each row holds its prompt alone, without sharing it; None without rows."""
        return next((batch.alone for batch in self._batches.values()), None)

    def add(
        self, batch: DecodeBatch, sequences: Mapping[int, Sequence[int]], weights: WeightsStamp
    ) -> None:
        """Keep the rows of a batch, in place of those that they went on from.

        Args:
            batch: rows that have ended, from `DecodeBatch.ended`.
            sequences: the tokens of each of these rows, prompt and completion.
            weights: the stamp of the weights that computed them.
        """
        self._weights = weights
        self._drop_beginnings([_key(tokens) for tokens in sequences.values()])
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
            self._places.setdefault(key, []).append((self._added, int(place)))
        self._batches[self._added] = batch
        self._added += 1
        mx.async_eval(*held_arrays(batch.caches))  # then what they were taken from can be freed

    def take(self, prompts: Sequence[Sequence[int]]) -> DecodeBatch | None:
        """The rows that some of the prompts go on from, in one batch; the others are dropped.

        Args:
            prompts: token ids; a prompt goes on from a row if it begins with all of the row's
                tokens and has more.

        Returns:
            A batch whose rows are indices of prompts, without logits; None if there are none.
        """
        known, places, fresh = self._batches, self._places, self._are_fresh()
        self.clear()
        if not fresh:
            return None
        for batch in known.values():
            batch.rows = np.full(len(batch.rows), -1)
        lengths = sorted({len(key) for key in places}, reverse=True)
        for i, prompt in enumerate(prompts):
            data = _key(prompt)
            for length in lengths:
                found = places.get(data[:length]) if length < len(data) else None
                if found:
                    index, place = found.pop()
                    known[index].rows[place] = i
                    break
        batches = [batch for batch in known.values() if (batch.rows >= 0).any()]
        if not batches:
            return None
        # A prompt's rows may have ended at different times: now they stand together again.
        group = max(batch.per_prompt for batch in batches)
        return _stand_together([batch.take(batch.rows >= 0, group) for batch in batches])

    def branch(self, prompts: Sequence[Sequence[int]]) -> DecodeBatch | None:
        """Copies of what prompts have in common with kept rows, in one batch; the rows stay.

        Args:
            prompts: token ids; a prompt goes on from the row that it shares most tokens with, if
                it shares all of that row's own prompt. Its last token is left to be computed.

        Returns:
            A batch as from `take`.
        """
        if not self._are_fresh():
            self.clear()
            return None
        keys = sorted(self._places)
        prompt_tokens = {i: batch.prompt_tokens for i, batch in self._batches.items()}
        found: dict[int, list[tuple[int, int, int]]] = {}  # batch -> (place, prompt, tokens)
        for i, prompt in enumerate(prompts):
            data = _key(prompt)
            at = bisect.bisect(keys, data)
            near = [(_shared(key, data), key) for key in keys[max(0, at - 1) : at + 1]]
            shared, key = max(near, default=(0, b""))
            length = min(shared, len(prompt) - 1)
            if length:
                index, place = self._places[key][0]
                if length >= prompt_tokens[index][place]:
                    found.setdefault(index, []).append((place, i, length))
        if not found:
            return None
        counts: dict[int, int] = {}
        for index, rows in found.items():
            batch = self._batches[index]
            for place, _, _ in rows:
                number = int(batch.prompts[place // batch.per_prompt])
                counts[number] = counts.get(number, 0) + 1
        group = max(
            self._batches[index].best_group(np.array(list(counts.values()))) for index in found
        )
        batches = []
        for index, rows in sorted(found.items()):
            places, numbers, lengths = np.array(sorted(rows)).T
            batches.append(self._batches[index].branches(places, numbers, lengths, group))
        return _stand_together(batches)

    def _are_fresh(self) -> bool:
        """Whether the model still has the weights that the rows were computed with."""
        return self._weights is not None and self._weights.is_of(self._model)

    def _drop_beginnings(self, keys: Sequence[bytes]) -> None:
        """Drop rows that new ones begin with: a prompt can go on from the new ones instead."""
        lengths = sorted({len(key) for key in self._places})
        for key in keys:
            for length in lengths[: bisect.bisect_left(lengths, len(key))]:
                self._places.pop(key[:length], None)
        left = {index for places in self._places.values() for index, _ in places}
        self._batches = {i: batch for i, batch in self._batches.items() if i in left}


def _stand_together(batches: list[DecodeBatch]) -> DecodeBatch:
    """One batch of the rows of several, with the rows of each prompt side by side."""
    joined = reduce(DecodeBatch.join, batches)
    return joined if len(batches) == 1 else joined.take(joined.rows >= 0)


def _shared(one: bytes, other: bytes) -> int:
    """How many tokens two keys have in common at their beginnings."""
    length = min(len(one), len(other))
    differ = np.frombuffer(one[:length], np.int32) != np.frombuffer(other[:length], np.int32)
    return int(differ.argmax()) if differ.any() else length // 4


def _key(tokens: Sequence[int]) -> bytes:
    return np.asarray(tokens, np.int32).tobytes()
