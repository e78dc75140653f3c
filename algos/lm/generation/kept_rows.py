"""Rows whose keys and values are kept, for later turns of an episode or for branches of a tree."""

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
        self._batches: dict[int, DecodeBatch] = {}
        self._added = 0
        self._places: dict[bytes, list[tuple[int, int]]] = {}  # by the tokens: batch, place
        self._weights: WeightsStamp | None = None

    @property
    def alone(self) -> bool | None:
        """Whether each row has its prompt for itself; None where there are no rows."""
        return next((batch.alone for batch in self._batches.values()), None)

    def add(
        self, batch: DecodeBatch, sequences: Mapping[int, Sequence[int]], weights: WeightsStamp
    ) -> None:
        """Keep the rows of a batch, in place of those that they go on from.

        Args:
            batch: of a call whose rows have ended, from `DecodeBatch.ended`.
            sequences: the tokens of each of its rows, prompt and completion.
            weights: of the model as it was then.
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
        mx.async_eval(*held_arrays(batch.caches))  # what they were taken from is let go

    def take(self, prompts: Sequence[Sequence[int]]) -> DecodeBatch | None:
        """The rows that some of the prompts go on from, in one batch; nothing is kept after that.

        Args:
            prompts: each goes on from a row where it begins with all of its tokens and has more.

        Returns:
            A batch whose rows are indices of prompts, without logits; None where there are none.
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
        # A prompt's rows may have ended at different times: they stand together again.
        group = max(batch.per_prompt for batch in batches)
        return _stand_together([batch.take(batch.rows >= 0, group) for batch in batches])

    def branch(self, prompts: Sequence[Sequence[int]]) -> DecodeBatch | None:
        """Copies of what prompts have in common with kept rows, in one batch; the rows stay.

        Args:
            prompts: each goes on from the row that it shares most with, where it shares all of
                that row's own prompt. Their last tokens are left to be computed.

        Returns:
            As `take`.
        """
        if not self._are_fresh():
            self.clear()
            return None
        keys = sorted(self._places)
        prompt_tokens = {i: batch.prompt_tokens for i, batch in self._batches.items()}
        found: dict[int, list[tuple[int, int, int]]] = {}  # by batch: place, prompt, tokens
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
        """Let go of rows that others begin with: what goes on from them can go on from these."""
        lengths = sorted({len(key) for key in self._places})
        for key in keys:
            for length in lengths[: bisect.bisect_left(lengths, len(key))]:
                self._places.pop(key[:length], None)
        left = {index for places in self._places.values() for index, _ in places}
        self._batches = {i: batch for i, batch in self._batches.items() if i in left}


def _stand_together(batches: list[DecodeBatch]) -> DecodeBatch:
    """One batch of the rows of several, those of one prompt side by side."""
    joined = reduce(DecodeBatch.join, batches)
    return joined if len(batches) == 1 else joined.take(joined.rows >= 0)


def _shared(one: bytes, other: bytes) -> int:
    """How many tokens two keys begin with alike."""
    length = min(len(one), len(other))
    differ = np.frombuffer(one[:length], np.int32) != np.frombuffer(other[:length], np.int32)
    return int(differ.argmax()) if differ.any() else length // 4


def _key(tokens: Sequence[int]) -> bytes:
    return np.asarray(tokens, np.int32).tobytes()
