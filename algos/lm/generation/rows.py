"""Rows that are decoded together, and the tokens that were drawn for them.

Shapes: N completions of a call, B places of a batch = P prompts x G, V vocabulary, K steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from textenv.algos.lm.generation.completions import Completion
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

_COMPACT_BELOW = 0.75  # finished rows are dropped when less than this share goes on
_PLACE = 128  # what a place costs beside attention, in columns that it attends to


class DecodeBatch:
    """Places of a layout, most of them with a row.

    Args:
        caches: of each layer.
        rows: (B,) the row in each place; -1 where there is none.
        logits: (B, V) of each row's next token.
        prompts: (P,) a number for each prompt; one that is held more than once has it again.

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
        """The caches, where prompts are shared."""
        return [cache for cache in self.caches if isinstance(cache, ForkedCache)]

    @property
    def columns(self) -> int:
        """How many there are, without those of prompts that are shared."""
        return self.caches[0].columns

    @property
    def per_prompt(self) -> int:
        """G."""
        cache = self.caches[0]
        return cache.per_prompt if isinstance(cache, ForkedCache) else 1

    @property
    def alone(self) -> bool:
        """Whether each row has its prompt for itself."""
        cache = self.caches[0]
        return not isinstance(cache, ForkedCache) or cache.prompts is None

    def counts(self, which: np.ndarray) -> np.ndarray:
        """How many of some places (B,) each prompt has, of prompts that have any."""
        counts = np.bincount(self._prompt_of_place()[which])
        return counts[counts > 0]

    def best_group(self, counts: np.ndarray) -> int:
        """G for so many rows of each prompt."""
        if self.alone:
            return 1
        cache = self.caches[0]
        assert isinstance(cache, ForkedCache)
        return best_group(counts, prompt_cost(cache.width, cache.columns))

    @property
    def prompt_tokens(self) -> np.ndarray:
        """(B,) how many tokens there are in the prompt that each place shares; 0 where alone."""
        cache = self.caches[0]
        assert isinstance(cache, ForkedCache)
        return cache.positions.prompt_tokens(cache.columns)

    def take(self, which: np.ndarray, per_prompt: int | None = None) -> DecodeBatch:
        """A batch of some of the places, laid out anew.

        Args:
            which: (B,) bool, which; at least one.
            per_prompt: the new G; None: the best for these.
        """
        old = np.flatnonzero(which)
        per_prompt = per_prompt or self.best_group(self.counts(which))
        return self._laid_out(old, self.rows[old], per_prompt)

    def copies(self, places: np.ndarray, rows: Sequence[Sequence[int]]) -> DecodeBatch:
        """Each of some places as often as there are rows for it."""
        counts = np.array([len(some) for some in rows])
        repeated = np.repeat(places, counts)
        prompts = np.bincount(self._prompt_of_place()[repeated])
        group = self.best_group(prompts[prompts > 0])
        return self._laid_out(repeated, np.concatenate(rows), group)

    def branches(
        self, places: np.ndarray, rows: np.ndarray, lengths: np.ndarray, per_prompt: int
    ) -> DecodeBatch:
        """Rows that go on from beginnings of those here, which stay as they are.

        Args:
            places: (N,) which each goes on from; one may be taken many times.
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
        # Of a prompt that is held more than once, the first will do for all its rows.
        first_of, of_place = np.unique(self.prompts, return_index=True)[1], self._prompt_of_place()
        layout = lay_out(of_place[old], len(first_of), per_prompt=per_prompt)
        held = first_of if layout.prompts is None else first_of[layout.prompts]
        places = np.repeat(held * self.per_prompt, per_prompt)  # for those that will be idle
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
        """Without the rows that have ended, where so many have that this is worth a copy."""
        most = _COMPACT_BELOW * len(self.rows)
        if self.going.sum() > most:
            return self
        counts = self.counts(self.going)
        group = self.best_group(counts)
        if (-(-counts // group)).sum() * group > most:
            return self
        return self.take(self.going, group)

    def join(self, other: DecodeBatch) -> DecodeBatch:
        """The rows of this batch and of another, of as many places for each prompt."""
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
        """The rows that have ended, without what was computed for them since; None: there are none.

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
        """(B,) numbers from 0 on, in the order of `prompts`."""
        numbers = np.unique(self.prompts, return_inverse=True)[1]
        return np.repeat(numbers, self.per_prompt)


def prompt_cost(width: int, columns: int) -> float:
    """What a prompt of so many columns costs, in places that have so many columns since."""
    return width / (columns + _PLACE)


class Samples:
    """What was drawn so far for each row.

    Args:
        limits: (N,) longest completion of each.
        params: what is drawn from.
        uniforms: (N, longest of all) the noise of each row and token.
        eos: tokens that end a completion.

    Attributes:
        tokens: (N, max_tokens).
        made: (N,) how many tokens there are in each row.
        ended: rows that have ended, in the order in which they did.
    """

    def __init__(
        self,
        limits: np.ndarray,
        params: SamplingParams,
        uniforms: np.ndarray,
        eos: Sequence[int],
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
        self._limits, self._uniforms, self._eos = limits, uniforms, np.array(eos)

    def left(self, batch: DecodeBatch) -> int:
        """The most tokens that any row of a batch may still draw."""
        rows = batch.rows[batch.going]
        return int((self._limits[rows] - self.made[rows]).max())

    def age(self, batch: DecodeBatch) -> int:
        """How many tokens the rows of a batch that go on have, in the mean."""
        return int(self.made[batch.rows[batch.going]].mean())

    def noise(self, batch: DecodeBatch, steps: int) -> mx.array:
        """The noise of the next tokens, (K, B)."""
        at = self.made[batch.rows] + np.arange(steps)[:, None]
        return mx.array(self._uniforms[batch.rows, np.minimum(at, self.tokens.shape[1] - 1)])

    def add(self, batch: DecodeBatch, drawn: Sequence[Drawn]) -> None:
        """Take in what was drawn for a batch, and mark the rows that have ended.

        Args:
            batch: the batch.
            drawn: K times.

        Raises:
            DataError: where the model's logits are not finite.
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
            ended = stops | (at + 1 == self._limits[rows])
            batch.going[here[ended]] = False
            self.ended += rows[ended].tolist()
            if ended.all():
                break

    def completion(self, row: int) -> Completion:
        """What was drawn for a row."""
        made = self.made[row]
        return Completion(
            self.tokens[row, :made].tolist(),
            self._logprobs[row, :made].tolist(),
            self._entropies[row, :made].tolist(),
            None if self._support is None else self._support[row],
            int(self.tokens[row, made - 1]) not in self._eos,
        )
