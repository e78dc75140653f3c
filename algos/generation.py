"""Many completions at once: each distinct prompt is prefilled one time, then rows are decoded.

Shapes: P distinct prompts, B rows (completions), V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from textenv.algos import backend
from textenv.algos.sampling import SamplingParams, draw, restrict
from textenv.errors import DataError

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402

from textenv.algos.kv_cache import DecodeCache, GrowingCache  # noqa: E402
from textenv.algos.models import check_cache, split_head  # noqa: E402

_COMPACT_BELOW = 0.75  # finished rows are dropped when less than this share goes on


@dataclass
class Completion:
    """One sampled completion; EOS, where it came, is its last token."""

    token_ids: list[int] = field(default_factory=list)
    token_logprobs: list[float] = field(default_factory=list)
    """Log-probability of each token under the distribution that it was drawn from."""
    token_entropies: list[float] = field(default_factory=list)
    """Entropy of that distribution, in nats."""
    support: list[np.ndarray] | None = None
    """Ids of the tokens that could be drawn, for each token; None where all could."""
    truncated: bool = True
    """Whether it ran out of tokens before an EOS."""


class Generator:
    """Samples completions from a model.

    Args:
        model: an mlx-lm model of dense or sliding-window attention.
        eos_token_ids: tokens that end a completion.
        batch_size: rows decoded at once; bounds the memory of the cache.
    """

    def __init__(self, model: nn.Module, eos_token_ids: Sequence[int], batch_size: int = 512):
        self._layers = check_cache(model)
        self._body, self._head = split_head(model)
        self._eos = frozenset(eos_token_ids)
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
        keys = [tuple(p) for p in prompts]
        distinct = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        rows = mx.array([distinct[key] for key in keys])  # (B,)
        prefix, last_hidden = self.prefill(list(distinct))
        caches = [DecodeCache.continuing(cache, rows, max_tokens) for cache in prefix]
        logits = self._head(last_hidden)[rows]  # (B, V)

        out = [Completion(support=None if params.full_support else []) for _ in prompts]
        alive = list(range(len(prompts)))  # the completion that each cache row belongs to
        for step in range(max_tokens):
            noise = mx.array(uniforms[alive, step])
            restricted = restrict(logits, params)
            tokens, logprobs, entropies = draw(restricted, noise)
            if step + 1 < max_tokens:  # the next step is under way while this one is read
                hidden = self._body(tokens[:, None], caches)
                logits = self._head(hidden[:, -1])
                mx.async_eval(tokens, logprobs, entropies, logits)
            self._record(out, alive, tokens, logprobs, entropies, restricted, params)

            going = [i for i, row in enumerate(alive) if out[row].truncated]
            if not going:
                break
            if len(going) < _COMPACT_BELOW * len(alive):
                index = mx.array(going)
                alive = [alive[i] for i in going]
                logits = logits[index]
                for cache in caches:
                    cache.keep(index)
        return out

    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[list[GrowingCache], mx.array]:
        """Caches of prompts padded on the left, and the hidden state (P, D) of each last token."""
        ids, padding = pad_left(prompts)
        caches = [GrowingCache(padding) for _ in range(self._layers)]
        return caches, self._body(ids, caches)[:, -1]

    def _record(
        self,
        out: list[Completion],
        alive: list[int],
        tokens: mx.array,
        logprobs: mx.array,
        entropies: mx.array,
        restricted: mx.array,
        params: SamplingParams,
    ) -> None:
        support = None if params.full_support else np.array(restricted > -mx.inf)  # (B, V)
        columns: Any = tokens.tolist(), logprobs.tolist(), entropies.tolist()
        for i, (row, token, logprob, entropy) in enumerate(zip(alive, *columns)):
            completion = out[row]
            if not completion.truncated:
                continue  # finished, and not yet dropped from the batch
            if not math.isfinite(logprob):  # a draw from NaN would be token 0
                raise DataError(
                    "the model's logits are not finite numbers: its weights are broken, or it "
                    "cannot take prompts of different lengths in one batch"
                )
            completion.token_ids.append(token)
            completion.token_logprobs.append(logprob)
            completion.token_entropies.append(entropy)
            if support is not None and completion.support is not None:
                completion.support.append(np.flatnonzero(support[i]).astype(np.int32))
            completion.truncated = token not in self._eos


def pad_left(sequences: Sequence[Sequence[int]]) -> tuple[mx.array, mx.array]:
    """Token ids (P, L) padded on the left with 0, and the number of pads in each row (P,)."""
    longest = max(map(len, sequences))
    ids = np.zeros((len(sequences), longest), np.int32)
    for row, sequence in zip(ids, sequences):
        row[longest - len(sequence) :] = sequence
    return mx.array(ids), mx.array([longest - len(s) for s in sequences])
