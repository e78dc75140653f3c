"""The state of a call of the generator: the rows being decoded, and the tokens drawn so far.

Shapes: N completions of a call, B places of a batch = P prompts x G, V vocabulary, K steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from textenv.algos.lm.generation.completions import Completion, Ends
from textenv.algos.lm.generation.sampling import SamplingParams
from textenv.algos.runtime import backend
from textenv.errors import DataError

backend.prepare()

import mlx.core as mx  # noqa: E402

from textenv.algos.lm.cache.forking import (  # noqa: E402
    Cache,
    join_caches,
    take_places,
    with_positions,
)
from textenv.algos.lm.cache.kv_cache import ForkedCache  # noqa: E402
from textenv.algos.lm.cache.layout import best_group, lay_out  # noqa: E402
from textenv.algos.lm.generation.decode_step import Drawn  # noqa: E402

_COMPACT_BELOW = 0.75  # ended rows are dropped once at most this share goes on
_PLACE = 128  # what a place costs besides attention, in columns attended to


class DecodeBatch:
    """Rows that are decoded together, each in a place of a layout; some places may be idle.

    Args:
        caches: the cache of each layer.
        rows: (B,) the row in each place; -1 for an idle place.
        logits: (B, V) for each row's next token.
        prompts: (P,) a number for each prompt; a prompt that is held twice has the same number.

    Attributes:
        going: (B,) bool, whether the row in that place has more tokens to come.
        begins: (B,) the column of each row's first token.
    """

    def __init__(
        self, caches: list[Cache], rows: np.ndarray, logits: mx.array, prompts: np.ndarray
    ):
        self.caches, self.rows, self.logits, self.prompts = caches, rows, logits, prompts
        self.going = rows >= 0
        self.begins = np.full(len(rows), self.columns)

    @property
    def forks(self) -> list[ForkedCache]:
        """The caches that share prompts; none if the model cannot share them."""
        return [cache for cache in self.caches if isinstance(cache, ForkedCache)]

    @property
    def columns(self) -> int:
        """How many columns there are, without those of shared prompts."""
        return self.caches[0].columns

    @property
    def per_prompt(self) -> int:
        """G, the number of places for each prompt."""
        cache = self.caches[0]
        return cache.per_prompt if isinstance(cache, ForkedCache) else 1

    @property
    def alone(self) -> bool:
        """Whether each row holds its prompt alone, without sharing it."""
        cache = self.caches[0]
        return not isinstance(cache, ForkedCache) or cache.prompts is None

    def counts(self, which: np.ndarray) -> np.ndarray:
        """How many of the places ``which`` (B,) each prompt has, for prompts that have any."""
        counts = np.bincount(self._prompt_of_place()[which])
        return counts[counts > 0]

    def best_group(self, counts: np.ndarray) -> int:
        """The best G if each prompt has ``counts`` rows."""
        if self.alone:
            return 1
        cache = self.caches[0]
        assert isinstance(cache, ForkedCache)
        return best_group(counts, prompt_cost(cache.width, cache.columns))

    @property
    def prompt_tokens(self) -> np.ndarray:
        """(B,) the number of tokens in the prompt that each place shares; 0 if it shares none."""
        cache = self.caches[0]
        assert isinstance(cache, ForkedCache)
        return cache.positions.prompt_tokens(cache.columns)

    def take(self, which: np.ndarray, per_prompt: int | None = None) -> DecodeBatch:
        """A batch of some of the places, laid out anew.

        Args:
            which: (B,) bool, the places to take; at least one.
            per_prompt: the new G; None: the best for these places.
        """
        old = np.flatnonzero(which)
        per_prompt = per_prompt or self.best_group(self.counts(which))
        return self._laid_out(old, self.rows[old], per_prompt)

    def copies(self, places: np.ndarray, rows: Sequence[Sequence[int]]) -> DecodeBatch:
        """A batch with a copy of each place for each of the rows that go on from it."""
        counts = np.array([len(some) for some in rows])
        return self.copies_of(np.repeat(places, counts), np.concatenate(rows))

    def copies_of(self, places: np.ndarray, rows: np.ndarray) -> DecodeBatch:
        """A batch of rows (N,) that go on from places (N,), of which one may be taken many times.

        It is this one, with these rows, if none is taken twice and few are not taken.
        """
        once = len(np.unique(places)) == len(places)
        if once and len(places) > _COMPACT_BELOW * len(self.rows):
            self.rows = np.full(len(self.rows), -1)
            self.rows[places] = rows
            self.going = self.rows >= 0
            return self
        counts = np.bincount(self._prompt_of_place()[places])
        return self._laid_out(places, rows, self.best_group(counts[counts > 0]))

    def branches(
        self, places: np.ndarray, rows: np.ndarray, lengths: np.ndarray, per_prompt: int
    ) -> DecodeBatch:
        """A batch of rows that go on from beginnings of the rows here, which stay as they are.

        Args:
            places: (N,) the place that each new row goes on from; one may be taken many times.
            rows: (N,) the new rows.
            lengths: (N,) how many tokens each takes over, its prompt's included.
            per_prompt: the new G.
        """
        return self._laid_out(places, rows, per_prompt, lengths)

    def _laid_out(
        self,
        old: np.ndarray,
        rows: np.ndarray,
        per_prompt: int,
        lengths: np.ndarray | None = None,
    ) -> DecodeBatch:
        """A batch of rows (N,) that go on from the old places (N,)."""
        # If a prompt is held more than once, the first copy serves all of its rows.
        first_of, of_place = np.unique(self.prompts, return_index=True)[1], self._prompt_of_place()
        layout = lay_out(of_place[old], len(first_of), per_prompt=per_prompt)
        held = first_of if layout.prompts is None else first_of[layout.prompts]
        places = np.repeat(held * self.per_prompt, per_prompt)  # for places that will be idle
        taken = layout.slots >= 0
        places[taken] = old[layout.slots[taken]]
        if lengths is not None:
            lengths = np.where(taken, lengths[layout.slots], 0)
        caches, first = take_places(self.caches, held, places, per_prompt, lengths)
        new = DecodeBatch(
            caches,
            np.where(taken, rows[layout.slots], -1),
            self.logits[mx.array(places)],
            self.prompts[held],
        )
        new.going = taken & self.going[places]
        new.begins = self.begins[places] - first
        return new

    def compacted(self) -> DecodeBatch:
        """The batch without the rows that have ended, if enough have to be worth a copy."""
        most = _COMPACT_BELOW * len(self.rows)
        if self.going.sum() > most:
            return self
        counts = self.counts(self.going)
        group = self.best_group(counts)
        if (-(-counts // group)).sum() * group > most:
            return self
        return self.take(self.going, group)

    def join(self, other: DecodeBatch) -> DecodeBatch:
        """A batch of the rows of this one and of another with equally many places a prompt."""
        caches = join_caches(self.caches, other.caches)
        rows = np.concatenate([self.rows, other.rows])
        prompts = np.concatenate([self.prompts, other.prompts])
        new = DecodeBatch(caches, rows, mx.concatenate([self.logits, other.logits]), prompts)
        new.going = np.concatenate([self.going, other.going])
        new.begins = np.concatenate(
            [batch.begins + (new.columns - batch.columns) for batch in (self, other)]
        )
        return new

    def ended(self, made: np.ndarray) -> DecodeBatch | None:
        """A batch of the rows that have ended, without columns after their end; None without any.

        Args:
            made: (N,) how many tokens each row has.
        """
        ended = (self.rows >= 0) & ~self.going
        if not ended.any():
            return None
        ends = np.where(ended, self.begins + made[self.rows], self.columns)
        cache = self.caches[0]
        assert isinstance(cache, ForkedCache)
        positions = cache.positions.leave_out(ends, np.full(len(ends), self.columns), self.columns)
        caches = with_positions(self.caches, positions)
        return DecodeBatch(caches, self.rows, self.logits[:, :0], self.prompts).take(ended)

    def _prompt_of_place(self) -> np.ndarray:
        """(B,) the prompt of each place, numbered from 0 in the order of ``prompts``."""
        numbers = np.unique(self.prompts, return_inverse=True)[1]
        return np.repeat(numbers, self.per_prompt)


def prompt_cost(width: int, columns: int) -> float:
    """The cost of a prompt of ``width`` columns, in places of ``columns`` own columns."""
    return width / (columns + _PLACE)


class Going(Protocol):
    """Rows that are decoded, as `Samples` sees them."""

    rows: np.ndarray
    """The row in each place; -1 for an idle place."""
    going: np.ndarray
    """bool, whether the row in that place has more tokens to come."""


class Samples:
    """The tokens that were drawn so far for each row of a call.

    Args:
        limits: (N,) the longest completion of each row.
        params: the sampling distribution.
        uniforms: (N, longest of all) the noise of each row and token.
        eos: tokens that end a completion.
        ends: says whether other tokens end one; None: none do.

    Attributes:
        tokens: (N, longest of all).
        made: (N,) how many tokens each row has.
        ended: the rows that have ended, in the order in which they ended.
    """

    def __init__(
        self,
        limits: np.ndarray,
        params: SamplingParams,
        uniforms: np.ndarray,
        eos: Sequence[int],
        ends: Ends | None = None,
    ):
        rows, longest = len(limits), int(limits.max(initial=0))
        self.tokens = np.zeros((rows, longest), np.int32)
        self._logprobs = np.zeros((rows, longest), np.float32)
        self._entropies = np.zeros((rows, longest), np.float32)
        self._support: list[list[np.ndarray]] | None = (
            None if params.full_support else [[] for _ in range(rows)]
        )
        self.made = np.zeros(rows, int)
        self.ended: list[int] = []
        self._stopped = np.zeros(rows, bool)  # by other than the limit
        self._ends = ends
        self._limits, self._uniforms, self._eos = limits, uniforms, np.array(eos)

    def left(self, batch: Going) -> int:
        """The most tokens that any row of a batch may still draw."""
        rows = batch.rows[batch.going]
        return int((self._limits[rows] - self.made[rows]).max())

    def age(self, batch: Going) -> int:
        """The mean number of tokens of the rows of a batch that go on."""
        return int(self.made[batch.rows[batch.going]].mean())

    def noise(self, batch: Going, steps: int) -> mx.array:
        """The noise for the next ``steps`` tokens, (K, B)."""
        at = self.made[batch.rows] + np.arange(steps)[:, None]
        return mx.array(self._uniforms[batch.rows, np.minimum(at, self.tokens.shape[1] - 1)])

    def add(self, batch: Going, drawn: Sequence[Drawn]) -> None:
        """Record what was drawn for a batch, and mark the rows that have ended.

        Args:
            batch: the batch.
            drawn: what each of the K steps drew.

        Raises:
            DataError: if the model's logits are not finite.
        """
        for step in drawn:
            here = np.flatnonzero(batch.going)
            rows = batch.rows[here]
            at = self.made[rows]
            for column, values in zip((self.tokens, self._logprobs, self._entropies), step[:3]):
                column[rows, at] = np.array(values)[here]
            if not np.isfinite(self._logprobs[rows, at]).all():  # a draw from NaN would be token 0
                raise DataError(
                    "the model's logits are not finite numbers: its weights are broken, or it "
                    "cannot take prompts of different lengths in one batch"
                )
            if self._support is not None:
                for row, inside in zip(rows, np.array(step.inside)[here]):
                    self._support[row].append(np.flatnonzero(inside).astype(np.int32))
            self.made[rows] = at + 1
            stops = (self.tokens[rows, at, None] == self._eos).any(axis=1)
            if self._ends is not None:
                for i in np.flatnonzero(~stops):
                    tokens = self.tokens[rows[i], : at[i] + 1].tolist()
                    stops[i] = self._ends(int(rows[i]), tokens)
            self._stopped[rows] = stops
            ended = stops | (at + 1 == self._limits[rows])
            batch.going[here[ended]] = False
            self.ended += rows[ended].tolist()
            if ended.all():
                break

    def completion(self, row: int) -> Completion:
        """The completion of a row that has ended."""
        made = self.made[row]
        return Completion(
            self.tokens[row, :made].tolist(),
            self._logprobs[row, :made].tolist(),
            self._entropies[row, :made].tolist(),
            None if self._support is None else self._support[row],
            not self._stopped[row],
        )
