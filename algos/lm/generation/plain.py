"""The slow sampler, for architectures that `Generator` cannot batch.

This is for architectures that compute wrong results if prompts are padded on the left, or whose
caches are not keys and values alone: recurrent states, convolutions, compressed or chunked
attention. It is slower than the `Generator`: only rows with prompts of one length are decoded
together, and every completion has a copy of its prompt's cache.

Shapes: as in `textenv.algos.lm.generation.generator`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from textenv.algos.lm.generation.completions import Completion, Ends, OnCompletion, ignore
from textenv.algos.lm.generation.sampling import SamplingParams, draw, restrict
from textenv.algos.runtime import backend
from textenv.errors import DataError

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
from mlx_lm.models.cache import make_prompt_cache  # noqa: E402

from textenv.algos.lm.cache.take_rows import take_rows  # noqa: E402

_COMPACT_BELOW = 0.75  # ended rows are dropped once at most this share goes on


class PlainGenerator:
    """Samples completions from a model of any architecture.

    Args:
        model: an mlx-lm model.
        body: the model's layers, from `textenv.algos.lm.models.head.split_head`.
        head: the function that makes logits of hidden states.
        eos: tokens that end a completion.
        batch_size: the most rows that are decoded at once.
    """

    def __init__(
        self,
        model: nn.Module,
        body: Callable[..., mx.array],
        head: Callable[[mx.array], mx.array],
        eos: Sequence[int],
        batch_size: int,
    ):
        self._model, self._body, self._head = model, body, head
        self._eos = list(eos)
        self._batch_size = batch_size

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        params: SamplingParams,
        uniforms: np.ndarray,
        limits: Sequence[int] | None = None,
        on_completion: OnCompletion = ignore,
        ends: Ends | None = None,
    ) -> list[Completion]:
        """Sample one completion for each row; see `Generator.generate`."""
        most = np.full(len(prompts), max_tokens) if limits is None else np.array(limits, int)
        completions: dict[int, Completion] = {}
        lengths = np.array([len(prompt) for prompt in prompts])
        for length in np.unique(lengths):
            alike = np.flatnonzero(lengths == length)
            for start in range(0, len(alike), self._batch_size):
                rows = alike[start : start + self._batch_size]
                some = [prompts[i] for i in rows]
                batch = self._batch(some, most[rows], params, uniforms[rows], rows, ends)
                for place, completion in batch:
                    completions[int(rows[place])] = completion
                    on_completion(int(rows[place]), completion)
        return [completions[i] for i in range(len(prompts))]

    def _batch(
        self,
        prompts: Sequence[Sequence[int]],
        limits: np.ndarray,
        params: SamplingParams,
        uniforms: np.ndarray,
        numbers: np.ndarray,
        ends: Ends | None,
    ) -> Iterator[tuple[int, Completion]]:
        """Yield the place and the completion of each prompt as it ends; prompts have one length."""
        max_tokens = int(limits.max())
        distinct: dict[tuple[int, ...], int] = {}
        index = mx.array([distinct.setdefault(tuple(p), len(distinct)) for p in prompts])
        caches = make_prompt_cache(self._model)
        logits = self._head(self._body(mx.array(list(distinct)), caches)[:, -1])[index]  # (B, V)
        caches = take_rows(caches, index, len(distinct))
        done = [Completion(support=None if params.full_support else []) for _ in prompts]
        rows = np.arange(len(prompts))  # the completion in each place
        going = np.ones(len(prompts), bool)
        ended: list[tuple[int, Completion]] = []  # since the last step
        for step in range(max_tokens):
            restricted = restrict(logits, params)
            drawn = draw(restricted, mx.array(uniforms[rows, step]))
            if step + 1 < max_tokens:  # computed while this step is read
                logits = self._head(self._body(drawn[0][:, None], caches)[:, -1])
                mx.async_eval(*drawn, logits)
            yield from ended
            tokens, logprobs, entropies = (np.array(values).tolist() for values in drawn)
            inside = None if params.full_support else np.array(restricted > -mx.inf)
            for i, row in enumerate(rows):
                if done[row].truncated and step < limits[row]:
                    kept = None if inside is None else inside[i]
                    self._append(done[row], tokens[i], logprobs[i], entropies[i], kept)
                    if ends is not None and done[row].truncated:
                        done[row].truncated = not ends(int(numbers[row]), done[row].token_ids)
            were = going
            going = np.array([done[row].truncated and step + 1 < limits[row] for row in rows])
            ended = [(row, done[row]) for row in rows[were & ~going].tolist()]
            if not going.any():
                break
            if going.mean() <= _COMPACT_BELOW and step + 1 < max_tokens:
                places = mx.array(np.flatnonzero(going))
                caches = take_rows(caches, places, len(rows))
                rows, logits, going = rows[going], logits[places], going[going]
        yield from ended

    def _append(
        self,
        completion: Completion,
        token: int,
        logprob: float,
        entropy: float,
        inside: np.ndarray | None,
    ) -> None:
        if not np.isfinite(logprob):  # a draw from NaN would be token 0
            raise DataError(
                "the model's logits are not finite numbers: its weights are broken, or it "
                "cannot be run in this precision"
            )
        completion.token_ids.append(token)
        completion.token_logprobs.append(logprob)
        completion.token_entropies.append(entropy)
        if completion.support is not None and inside is not None:
            completion.support.append(np.flatnonzero(inside).astype(np.int32))
        completion.truncated = token not in self._eos
