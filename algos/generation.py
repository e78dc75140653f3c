"""Many completions at once: each distinct prompt is prefilled one time, then rows are decoded.

Shapes: P distinct prompts, B rows (completions), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from textenv.algos import backend
from textenv.algos.completions import Completion
from textenv.algos.sampling import SamplingParams, draw, restrict
from textenv.errors import DataError

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402

from textenv.algos.architectures import check_cache  # noqa: E402
from textenv.algos.forks import Cache, fork_caches, lay_out  # noqa: E402
from textenv.algos.kv_cache import ForkedCache, GrowingCache  # noqa: E402
from textenv.algos.models import split_head  # noqa: E402
from textenv.algos.plain_path import PlainGenerator  # noqa: E402

_COMPACT_BELOW = 0.75  # finished rows are dropped when less than this share goes on


class Generator:
    """Samples completions from a model.

    Args:
        model: an mlx-lm model.
        eos_token_ids: tokens that end a completion.
        batch_size: rows decoded at once; bounds the memory of the cache.
    """

    def __init__(self, model: nn.Module, eos_token_ids: Sequence[int], batch_size: int = 512):
        self._model = model
        self._layers = check_cache(model)
        self._body, self._head = split_head(model)
        self._eos = sorted(eos_token_ids)
        self._batch_size = batch_size

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        params: SamplingParams,
        uniforms: np.ndarray,
    ) -> list[Completion]:
        """Sample one completion for each row of ``prompts``.

        Args:
            prompts: token ids; equal prompts are prefilled once.
            max_tokens: longest completion, EOS included.
            params: the sampling distribution.
            uniforms: (B, max_tokens) float32 in [0, 1): the noise of each row and token.

        Returns:
            B completions, in order.

        Raises:
            DataError: where the model's logits are not finite.
        """
        if self._model.runs_plainly:
            plain = PlainGenerator(self._model, self._body, self._head, self._eos, self._batch_size)
            return plain.generate(prompts, max_tokens, params, uniforms)
        completions: list[Completion] = []
        for start in range(0, len(prompts), self._batch_size):
            rows = slice(start, start + self._batch_size)
            completions += self._batch(prompts[rows], max_tokens, params, uniforms[rows])
        return completions

    def _batch(
        self,
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        params: SamplingParams,
        uniforms: np.ndarray,
    ) -> list[Completion]:
        distinct: dict[tuple[int, ...], int] = {}
        index = np.array([distinct.setdefault(tuple(p), len(distinct)) for p in prompts])
        layout = lay_out(index, len(distinct), self._model.shares_prompts)
        prefix, last_hidden = self.prefill(list(distinct))
        caches = fork_caches(self._model, prefix, layout, max_tokens)
        rows = layout.slots  # the completion in each place; -1 where there is none
        logits = self._head(last_hidden)[mx.array(index[rows])]  # (places, V)

        tokens, logprobs, entropies = _empty(len(prompts), max_tokens)
        lengths = np.full(len(prompts), max_tokens)
        support: list[list[np.ndarray]] | None = (
            None if params.full_support else [[] for _ in prompts]
        )
        for step in range(max_tokens):
            restricted = restrict(logits, params)
            drawn = draw(restricted, mx.array(uniforms[rows, step]))
            if step + 1 < max_tokens:  # the next step is under way while this one is read
                hidden = self._body(drawn[0][:, None], caches)
                logits = self._head(hidden[:, -1])
                mx.async_eval(*drawn, logits)
            here = np.flatnonzero(rows >= 0)
            going = rows[here]
            for column, values in zip((tokens, logprobs, entropies), drawn):
                column[going, step] = np.array(values)[here]
            if not np.isfinite(logprobs[going, step]).all():  # a draw from NaN would be token 0
                raise DataError(
                    "the model's logits are not finite numbers: its weights are broken, or it "
                    "cannot take prompts of different lengths in one batch"
                )
            if support is not None:
                _record_support(support, going, np.array(restricted > -mx.inf)[here])
            ended = np.isin(tokens[going, step], self._eos)
            lengths[going[ended]] = step + 1
            rows = rows.copy()
            rows[here[ended]] = -1
            if ended.all():
                break
            if ended.any() and step + 1 < max_tokens:
                rows, logits = _compact(rows, logits, caches)
        return [
            Completion(
                tokens[i, : lengths[i]].tolist(),
                logprobs[i, : lengths[i]].tolist(),
                entropies[i, : lengths[i]].tolist(),
                None if support is None else support[i],
                int(tokens[i, lengths[i] - 1]) not in self._eos,
            )
            for i in range(len(prompts))
        ]

    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[list[GrowingCache], mx.array]:
        """Caches of prompts padded on the left, and the hidden state (P, D) of each last token."""
        ids, padding, padded = pad_left(prompts)
        caches = [GrowingCache(padding, padded) for _ in range(self._layers)]
        return caches, self._body(ids, caches)[:, -1]


def _empty(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, log-probabilities and entropies to be filled in, (rows, columns) each."""
    shape = rows, columns
    return np.zeros(shape, np.int32), np.zeros(shape, np.float32), np.zeros(shape, np.float32)


def _record_support(support: list[list[np.ndarray]], rows: np.ndarray, inside: np.ndarray) -> None:
    for row, ids in zip(rows, inside):
        support[row].append(np.flatnonzero(ids).astype(np.int32))


def _compact(
    rows: np.ndarray, logits: mx.array, caches: Sequence[Cache]
) -> tuple[np.ndarray, mx.array]:
    """Drop places without a row, where enough of them would go for that to be worth a copy.

    Args:
        rows: (places,) the row in each place, -1 where there is none.
        logits: (places, V).
        caches: of each layer; changed in place.
    """
    group = getattr(caches[0], "per_prompt", 1)
    by_prompt = (rows >= 0).reshape(-1, group)
    counts = by_prompt.sum(axis=1)
    prompts = np.flatnonzero(counts)
    width = int(counts.max())
    if len(prompts) * width > _COMPACT_BELOW * len(rows):
        return rows, logits
    # The places that stay: of each prompt its rows first, filled up with finished ones.
    order = np.argsort(~by_prompt[prompts], axis=1, kind="stable")[:, :width]
    places = (prompts[:, None] * group + order).reshape(-1)
    index = mx.array(places)
    for cache in caches:
        if isinstance(cache, ForkedCache):
            kept = None if len(prompts) == len(counts) else mx.array(prompts)
            cache.keep(kept, index, width)
        else:
            cache.keep(index)
    return rows[places], logits[index]


def pad_left(sequences: Sequence[Sequence[int]]) -> tuple[mx.array, mx.array, bool]:
    """Token ids (P, L) padded on the left with 0, pads in each row (P,), and whether any are."""
    longest = max(map(len, sequences))
    ids = np.zeros((len(sequences), longest), np.int32)
    for row, sequence in zip(ids, sequences):
        row[longest - len(sequence) :] = sequence
    pads = [longest - len(s) for s in sequences]
    return mx.array(ids), mx.array(pads), any(pads)
