"""Samples many completions at once: each distinct prompt is prefilled once, then rows are decoded.

Batching is continuous: once enough rows have ended, the next prompts take their places. Rows can be
kept, so that the next turn of an episode computes only what is new, or so that branches of a tree
go on from them.

Shapes: P distinct prompts, B places of a batch, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from textenv.algos.lm.generation.completions import Completion, Ends, OnCompletion, ignore
from textenv.algos.lm.generation.sampling import SamplingParams
from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402

from textenv.algos.lm.cache.forking import fork_caches, with_positions  # noqa: E402
from textenv.algos.lm.cache.kv_cache import ForkedCache, GrowingCache  # noqa: E402
from textenv.algos.lm.cache.layout import best_group, lay_out  # noqa: E402
from textenv.algos.lm.cache.packed import LEAST_STEM, find_stem  # noqa: E402
from textenv.algos.lm.cache.positions import bucket, pad_left  # noqa: E402
from textenv.algos.lm.cache.prefill import prefill, prefill_after  # noqa: E402
from textenv.algos.lm.generation.decode_step import Decoder, Drawn, draw_tokens  # noqa: E402
from textenv.algos.lm.generation.kept_rows import KeptRows  # noqa: E402
from textenv.algos.lm.generation.plain import PlainGenerator  # noqa: E402
from textenv.algos.lm.generation.rows import DecodeBatch, Samples, prompt_cost  # noqa: E402
from textenv.algos.lm.generation.together import Members, decode_together  # noqa: E402
from textenv.algos.lm.models.architecture import check_architecture  # noqa: E402
from textenv.algos.lm.models.head import split_head  # noqa: E402
from textenv.algos.lm.models.properties import count_parameters  # noqa: E402
from textenv.algos.lm.models.vocabulary import mask_unknown  # noqa: E402
from textenv.algos.lm.models.weights import WeightsStamp  # noqa: E402

_REFILL = 0.25  # the share of a batch's rows that must be free before others join
_MOST_STEPS, _AGE = 4, 8  # steps between two reads on a CPU, see `sync_every`
_ROOM = 64  # columns that a cache grows by
_LARGE = 50_000_000  # parameters from which what rows have in common is looked for

_Together = Callable[[DecodeBatch, Members], "DecodeBatch | None"]


class _Waiting(NamedTuple):
    """A prompt that waits to be prefilled, and the rows that continue it."""

    prompt: Sequence[int]
    rows: list[int]


class Generator:
    """Samples completions from a model.

    Args:
        model: an mlx-lm model.
        eos_token_ids: tokens that end a completion.
        batch_size: the most rows that are decoded at once; bounds the memory of the caches.
        sync_every: steps between two reads of what was drawn, each of which waits for the device.
            None: 8; on a CPU it grows from 1 to 4 with the rows' length, a step for every 8 tokens,
            so that few steps are wasted after the last row has ended.

    Attributes:
        tokens_prefilled: tokens of prompts, and of the environment's turns, that went through the
            model so far.
        tokens_decoded: tokens sampled so far.
    """

    def __init__(
        self,
        model: nn.Module,
        eos_token_ids: Sequence[int],
        batch_size: int = 512,
        sync_every: int | None = None,
    ):
        self._model = model
        self._layers = check_architecture(model)
        self._body, head = split_head(model)
        known = mask_unknown(model)
        self._head = lambda hidden: known(head(hidden))
        self._step = Decoder(model, self._body, self._head)
        self._eos = sorted(eos_token_ids)
        self._batch_size = batch_size
        self._sync_every = sync_every or (None if mx.default_device() == mx.cpu else 8)
        self._large = model.shares_prompts and count_parameters(model) >= _LARGE
        self._kept = KeptRows(model, batch_size)
        self.tokens_prefilled = self.tokens_decoded = 0
        self._prompts_seen = 0

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        params: SamplingParams,
        uniforms: np.ndarray,
        continues: bool = False,
        limits: Sequence[int] | None = None,
        branches: bool = False,
        on_completion: OnCompletion = ignore,
        ends: Ends | None = None,
    ) -> list[Completion]:
        """Sample one completion for each row of ``prompts``.

        Args:
            prompts: token ids; equal prompts are prefilled once. A prompt that begins with a prompt
                of the last call and its completion goes on from these, if that call had
                ``continues``.
            max_tokens: the longest completion, EOS included.
            params: the sampling distribution.
            uniforms: (N, max_tokens) float32 in [0, 1): the noise of each row and token.
            continues: whether the next call may go on from these rows. Up to ``batch_size`` of
                them then stay in memory, until the next call or `forget`.
            limits: the longest completion of each row, if it is less than ``max_tokens``.
            branches: whether this call may go on from any beginning of the rows that are kept, and
                later calls from any beginning of these rows, any number of times. Of a prompt's
                beginning that a kept row shares, only the last token is computed. The rows stay in
                memory until `forget`.
            on_completion: called with each row and its completion once that has ended, while others
                go on.
            ends: says whether a row's tokens so far end its completion without an EOS; it sees the
                tokens of this call alone.

        Returns:
            N completions, in order.

        Raises:
            DataError: if the model's logits are not finite.
        """
        if self._model.runs_plainly:
            plain = PlainGenerator(self._model, self._body, self._head, self._eos, self._batch_size)
            self.tokens_prefilled += sum(map(len, {tuple(prompt) for prompt in prompts}))
            done = plain.generate(
                prompts, max_tokens, params, uniforms, limits, on_completion, ends
            )
            self.tokens_decoded += sum(len(c.token_ids) for c in done)
            return done
        if branches and len(prompts) > self._batch_size:
            return self._in_parts(
                prompts, max_tokens, params, uniforms, limits, on_completion, ends
            )
        most = np.full(len(prompts), max_tokens) if limits is None else np.array(limits, int)
        samples = Samples(most, params, uniforms, self._eos, ends)
        keeps = (continues or branches) and self._model.shares_prompts
        stamp = WeightsStamp(self._model) if keeps else None
        batch = self._go_on(prompts, branches)
        queue = self._line_up(prompts, [] if batch is None else batch.rows)
        alone = self._is_alone(batch, queue)
        completions: dict[int, Completion] = {}

        def tell() -> None:
            for row in samples.ended[len(completions) :]:
                completions[row] = samples.completion(row)
                on_completion(row, completions[row])

        together = None
        if self._large and mx.default_device() == mx.cpu and not keeps:
            forward = self._forward
            together = partial(
                decode_together, samples=samples, params=params, forward=forward, tell=tell
            )
        room = min(max_tokens, _ROOM)
        while queue or batch:
            before, batch = batch, self._next_batch(batch, queue, alone, room, together)
            if stamp is not None and before is not None and before is not batch:
                self._keep(before, prompts, samples, stamp)
            before = None  # so that its caches are freed before more tokens are drawn
            drawn = [] if batch is None else self._run(batch, samples, params)
            tell()  # while the device computes
            if batch is not None:
                samples.add(batch, drawn)
        self.tokens_decoded += int(samples.made.sum())
        return [completions[row] for row in range(len(prompts))]

    def _in_parts(
        self,
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        params: SamplingParams,
        uniforms: np.ndarray,
        limits: Sequence[int] | None,
        on_completion: OnCompletion,
        ends: Ends | None,
    ) -> list[Completion]:
        """Do what `generate` with branches does, one batch after another."""
        parts = []
        for first in range(0, len(prompts), self._batch_size):
            some = slice(first, first + self._batch_size)

            def told(row: int, completion: Completion, first: int = first) -> None:
                on_completion(first + row, completion)

            def ended(row: int, token_ids: list[int], first: int = first) -> bool:
                return ends is not None and ends(first + row, token_ids)

            parts += self.generate(
                prompts[some],
                max_tokens,
                params,
                uniforms[some],
                limits=None if limits is None else limits[some],
                branches=True,
                on_completion=told,
                ends=None if ends is None else ended,
            )
        return parts

    def forget(self) -> None:
        """Free the memory of the rows that were kept for later calls."""
        self._kept.clear()

    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[list[GrowingCache], mx.array]:
        """Caches of prompts, and the hidden state (P, D) of each prompt's last token."""
        lengths = set(map(len, prompts))
        ragged = len(lengths) > 1 and self._model.shares_prompts
        width = bucket(max(lengths), 8) if ragged else 0
        self.tokens_prefilled += sum(map(len, prompts))
        stem = find_stem(prompts, LEAST_STEM) if self._large else 0
        if not stem:
            return prefill(self._body, self._layers, prompts, width, packed=self._large)
        self.tokens_prefilled -= stem * (len(prompts) - 1)
        return prefill_after(self._body, self._layers, prompts, stem, width)

    def _line_up(
        self, prompts: Sequence[Sequence[int]], under_way: Sequence[int] | np.ndarray
    ) -> deque[_Waiting]:
        """The distinct prompts of rows that are not under way, in parts of one batch at most."""
        distinct: dict[tuple[int, ...], list[int]] = {}
        for i in sorted(set(range(len(prompts))) - set(map(int, under_way))):
            distinct.setdefault(tuple(prompts[i]), []).append(i)
        most = self._batch_size
        return deque(
            _Waiting(prompt, rows[i : i + most])
            for prompt, rows in distinct.items()
            for i in range(0, len(rows), most)
        )

    def _next(self, queue: deque[_Waiting], going: int) -> list[_Waiting]:
        """Take the prompts that join now off the queue: none unless enough places are free."""
        free = self._batch_size - going
        joining: list[_Waiting] = []
        if going == 0 or free >= _REFILL * self._batch_size:
            while queue and len(queue[0].rows) <= free:
                joining.append(queue.popleft())
                free -= len(joining[-1].rows)
        return joining

    def _is_alone(self, batch: DecodeBatch | None, queue: Iterable[_Waiting]) -> bool:
        """Whether each row of a call holds its prompt alone, without sharing it."""
        if batch is not None:
            return batch.alone
        if self._kept.alone is not None:  # so that all kept rows fit in one batch
            return self._kept.alone
        counts = np.array([len(waiting.rows) for waiting in queue])
        return not self._model.shares_prompts or best_group(counts) == 1

    def _next_batch(
        self,
        batch: DecodeBatch | None,
        queue: deque[_Waiting],
        alone: bool,
        room: int,
        together: _Together | None,
    ) -> DecodeBatch | None:
        """A batch of the rows that go on and of those that join; None if all have ended."""
        joining = self._next(queue, 0 if batch is None else int(batch.going.sum()))
        if joining:
            return self._prefilled(joining, batch, alone, room, together)
        assert batch is not None
        return batch.compacted() if batch.going.any() else None

    def _keep(
        self,
        batch: DecodeBatch,
        prompts: Sequence[Sequence[int]],
        samples: Samples,
        stamp: WeightsStamp,
    ) -> None:
        """Keep the rows of a batch that have ended, for later calls."""
        left = batch.ended(samples.made)
        if left is not None:
            here = left.rows[left.rows >= 0].tolist()
            tokens = {i: [*prompts[i], *samples.tokens[i, : samples.made[i]]] for i in here}
            self._kept.add(left, tokens, stamp)

    def _prefilled(
        self,
        joining: Sequence[_Waiting],
        batch: DecodeBatch | None,
        alone: bool,
        room: int,
        together: _Together | None,
    ) -> DecodeBatch | None:
        """A batch of new rows, and of another batch's rows that go on.

        Args:
            joining: the prompts of the new rows.
            batch: the other batch, if there is one.
            alone: whether each row holds its prompt alone, without sharing it.
            room: how many columns caches grow by.
            together: `decode_together`; None: each new row has a place of its own from the start.

        Returns:
            The batch; None if all have ended while they were decoded together.
        """
        counts = np.array([len(waiting.rows) for waiting in joining])
        numbers = self._prompts_seen + np.arange(len(joining))
        self._prompts_seen += len(joining)
        prefix, hidden = self.prefill([waiting.prompt for waiting in joining])
        going = batch is not None and bool(batch.going.any())
        if together is not None and not alone and counts.max() > 1:
            places = np.arange(len(joining))
            caches = fork_caches(self._model, prefix, lay_out(places, len(joining)), room)
            rows = np.concatenate([waiting.rows for waiting in joining])
            first = np.array([waiting.rows[0] for waiting in joining])
            one_each = DecodeBatch(caches, first, self._head(hidden), numbers)
            members = Members(rows, np.repeat(places, counts), np.ones(len(rows), bool))
            new = together(one_each, members)
            if batch is None or not going:
                return new
            if new is None:
                return batch.compacted()
            both = np.concatenate([some.counts(some.going) for some in (batch, new)])
            group = batch.best_group(both)
            return batch.take(batch.going, group).join(new.take(new.going, group))
        if alone:
            group = 1
        elif batch is not None and going:
            group = batch.best_group(np.concatenate([batch.counts(batch.going), counts]))
        else:
            group = best_group(counts, prompt_cost(prefix[0].columns, 0))
        index = np.repeat(np.arange(len(joining)), counts)
        layout = lay_out(index, len(joining), per_prompt=group)
        held = np.arange(len(joining)) if layout.prompts is None else layout.prompts
        caches = fork_caches(self._model, prefix, layout, room, alone)
        rows = np.concatenate([waiting.rows for waiting in joining])
        rows = np.where(layout.slots >= 0, rows[layout.slots], -1)
        logits = self._head(hidden)[mx.array(np.repeat(held, group))]
        new = DecodeBatch(caches, rows, logits, numbers[held])
        return batch.take(batch.going, group).join(new) if batch is not None and going else new

    def _run(self, batch: DecodeBatch, samples: Samples, params: SamplingParams) -> list[Drawn]:
        """Take some steps with a batch, and return what they drew, for `Samples.add`."""
        left = samples.left(batch)
        sync_every = self._sync_every or min(_MOST_STEPS, 1 + samples.age(batch) // _AGE)
        steps = min(sync_every, left)
        noise = samples.noise(batch, steps)
        drawn: list[Drawn] = []
        for k in range(steps):
            if k + 1 == left:
                drawn.append(draw_tokens(batch.logits, noise[k], params))
                break
            if self._model.shares_prompts:
                step, batch.logits = self._step(batch.forks, batch.logits, noise[k], params)
            else:
                step = draw_tokens(batch.logits, noise[k], params)
                hidden = self._body(step.tokens[:, None], batch.caches)
                batch.logits = self._head(hidden[:, -1])
            drawn.append(step)
            mx.async_eval(step, batch.logits)  # computed while the steps before are read
        return drawn

    def _forward(self, ids: mx.array, batch: DecodeBatch) -> mx.array:
        """The logits (B, V) after one more token (B, 1) in each place."""
        return self._head(self._body(ids, batch.caches)[:, -1])

    def _go_on(self, prompts: Sequence[Sequence[int]], branches: bool) -> DecodeBatch | None:
        """A batch of the prompts that go on from kept rows, with their new tokens computed."""
        if not len(self._kept):
            return None
        alike: dict[tuple[int, ...], list[int]] = {}
        if branches:  # equal prompts are computed once
            for row, prompt in enumerate(prompts):
                alike.setdefault(tuple(prompt), []).append(row)
            rows, prompts = list(alike.values()), list(alike)
        batch = self._kept.branch(prompts) if branches else self._kept.take(prompts)
        if batch is None:
            return None
        cache = batch.caches[0]
        assert isinstance(cache, ForkedCache)
        lengths = np.array(cache.offset)  # tokens that went through the model
        new = [prompts[row][n:] if row >= 0 else [] for row, n in zip(batch.rows, lengths)]
        ids, padding, _ = pad_left(new)
        begins, end = np.full(len(new), batch.columns), batch.columns + ids.shape[1]
        positions = cache.positions.leave_out(begins, begins + np.array(padding), end)
        batch.caches = with_positions(batch.caches, positions)
        batch.logits = self._head(self._body(ids, batch.caches)[:, -1])
        batch.begins, batch.going = np.full(len(new), end), batch.rows >= 0
        self.tokens_prefilled += sum(map(len, new))
        if not branches:
            return batch
        places = np.flatnonzero(batch.going)
        if all(len(rows[row]) == 1 for row in batch.rows[places]):
            batch.rows = np.where(batch.going, [rows[row][0] for row in batch.rows], -1)
            return batch
        return batch.copies(places, [rows[row] for row in batch.rows[places]])
