"""Computes log-probabilities of completions under a model, with gradients.

Each distinct prompt goes through the model once, forward and backward, and its completions continue
its keys and values. What all prompts of a batch begin with, such as a system message, goes through
once too. Equal completions of a prompt go through once: a policy that is nearly sure of its answers
gives many. What completions of a tree share goes through once as well. Logits are computed only for
the positions that predict a completion's token.

Shapes: as in `textenv.algos.lm.scoring.batch`; D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from textenv.algos.lm.cache import packed
from textenv.algos.lm.scoring.batch import TokenBatch
from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
from mlx.utils import tree_map  # noqa: E402

from textenv.algos.lm.cache.forking import fork_caches  # noqa: E402
from textenv.algos.lm.cache.kv_cache import GrowingCache  # noqa: E402
from textenv.algos.lm.cache.layout import lay_out  # noqa: E402
from textenv.algos.lm.cache.padding import find_padding  # noqa: E402
from textenv.algos.lm.cache.positions import pad_left  # noqa: E402
from textenv.algos.lm.kernels.block_sums import block_sum  # noqa: E402
from textenv.algos.lm.kernels.fast_math import exp_below, logsumexp, softmax  # noqa: E402
from textenv.algos.lm.models.architecture import check_architecture  # noqa: E402
from textenv.algos.lm.models.head import split_head  # noqa: E402
from textenv.algos.lm.models.vocabulary import (  # noqa: E402
    check_ids,
    embedding_rows,
    mask_unknown,
)
from textenv.algos.lm.scoring.checkpointing import in_chunks, recompute_layers  # noqa: E402
from textenv.algos.lm.scoring.plain import plain_hidden  # noqa: E402
from textenv.algos.lm.scoring.tree_scoring import tree_hidden  # noqa: E402

_FINITE = -1e30  # above -inf, below any logit
_CHUNK = 2**20  # logits that exist at once; if there are more, the backward computes them again
_OF_HEAD = 8  # or this part of the head's size, if that is more: each chunk reads all of it


class Scorer:
    """Computes log-probabilities of the tokens of a batch under a model.

    Args:
        model: an mlx-lm model.
        gradient_checkpointing: compute each layer again in the backward, to save memory.
    """

    def __init__(self, model: nn.Module, gradient_checkpointing: bool = False):
        self._model = model
        self._layers = check_architecture(model)
        self._body, self._head = split_head(model)
        self._known, self._rows = mask_unknown(model), embedding_rows(model)
        if gradient_checkpointing:
            self._body = recompute_layers(model, self._body)

    def __call__(self, batch: TokenBatch) -> tuple[mx.array, mx.array]:
        """Score a batch.

        Returns:
            Log-probabilities (N, T) of its tokens over the support that they were sampled from,
            and the entropies (N, T) of these distributions, without a gradient. Where the mask is
            0, both have no meaning.

        Raises:
            DataError: for a token id that the model has no row for.
        """
        check_ids(self._rows, batch.token_ids, *batch.prompts)
        if batch.parent is None:
            return self._score_distinct(batch)
        if not self._model.shares_prompts:
            return self.score(batch, self.hidden(batch))
        caches, last = self._prefill(batch)
        scored = tree_hidden(self._model, self._body, batch, caches, last[:, 0])
        places = mx.array(scored.places(batch))
        where = scored.rows, scored.columns
        support = None if batch.support is None else batch.support[where]
        logprobs, entropies = self._score(
            scored.hidden, batch.token_ids[where], support, batch.temperature[scored.rows]
        )
        return logprobs[places], entropies[places]

    def _score_distinct(self, batch: TokenBatch) -> tuple[mx.array, mx.array]:
        """Score each of the rows that are equal once."""
        rows, places = batch.distinct()
        if len(rows) == len(batch):
            return self.score(batch, self.hidden(batch))
        once = batch.take(rows)
        logprobs, entropies = self.score(once, self.hidden(once))
        where, missing = mx.array(places), batch.token_ids.shape[1] - once.token_ids.shape[1]
        padding = [(0, 0), (0, missing)]
        return mx.pad(logprobs[where], padding), mx.pad(entropies[where], padding)

    def with_hits(self, batch: TokenBatch) -> tuple[mx.array, mx.array, mx.array]:
        """Score a batch without trees, and tell which of its tokens the model would have chosen.

        Returns:
            Log-probabilities and entropies as from a call, under the whole vocabulary, and 1 for
            each token that is the most probable one, else 0; all are (N, T).

        Raises:
            DataError: for a token id that the model has no row for.
        """
        batch = replace(batch, support=None)
        logprobs, entropies, hits = self._score_batch(batch, self.hidden(batch), hits=True)
        return logprobs, entropies, hits

    @property
    def hidden_size(self) -> int:
        """The size D of the hidden states."""
        return int(self._body(mx.array([[0]])).shape[-1])  # lazy: nothing is computed

    def hidden(self, batch: TokenBatch) -> mx.array:
        """The hidden states (N, T, D) that predict the tokens of a batch.

        After the last token of a row whose mask is not 0 they have no meaning.
        """
        check_ids(self._rows, batch.token_ids, *batch.prompts)
        if self._model.runs_plainly:
            return plain_hidden(self._model, self._body, batch)
        layout = lay_out(batch.prompt_index, len(batch.prompts), self._model.shares_prompts)
        tokens = mx.array(batch.token_ids[layout.slots, :-1])
        rest: mx.array | None = None
        if not tokens.shape[1]:
            last = self._prefill(batch)[1]
        elif self._model.shares_prompts:
            lengths = np.where(layout.slots < 0, 0, batch.needed[layout.slots] - 1)
            before, rest = packed.forward(
                self._body, self._layers, batch.prompts, layout, tokens, lengths
            )
            last = before[:, -1:]
        else:
            caches, last = self._prefill(batch)
            rest = self._body(tokens, fork_caches(self._model, caches, layout))
        # If possible a broadcast and not a gather: its gradient is a sum, not a scatter.
        if layout.is_identity and layout.prompts is None:
            first = mx.repeat(last, layout.per_prompt, axis=0)
        else:
            first = last[mx.array(batch.prompt_index)]
        if rest is None:
            return first
        if not layout.is_identity:
            rest = rest[mx.array(layout.places)]
        return mx.concatenate([first, rest], axis=1)

    def _prefill(self, batch: TokenBatch) -> tuple[list[GrowingCache], mx.array]:
        """Caches of the prompts, and the hidden states (P, 1, D) that predict the first tokens."""
        ids, padding, padded = pad_left(batch.prompts)
        caches = [GrowingCache(padding, padded) for _ in range(self._layers)]
        return caches, self._body(ids, caches)[:, -1:]

    def score(
        self, batch: TokenBatch, hidden: mx.array, train_entropies: bool = False
    ) -> tuple[mx.array, mx.array]:
        """Score a batch whose hidden states are computed already.

        Args:
            batch: the batch to score.
            hidden: (N, T, D), from `hidden`.
            train_entropies: let gradients flow through the entropies too.

        Returns:
            Log-probabilities (N, T) and entropies (N, T), as from a call.
        """
        logprobs, entropies = self._score_batch(batch, hidden, train_entropies)
        return logprobs, entropies

    def _score_batch(
        self, batch: TokenBatch, hidden: mx.array, train_entropies: bool = False, hits: bool = False
    ) -> list[mx.array]:
        """What `_score` gives of each token of a batch, (N, T), from hidden states (N, T, D)."""
        flat, kept = hidden.reshape(-1, hidden.shape[-1]), np.ones(batch.mask.size, bool)
        padding = find_padding(batch.mask.ravel() != 0)
        if padding is not None:
            flat, kept = padding.remove(flat), padding.kept
        token_ids = batch.token_ids.ravel()[kept]
        temperatures = np.repeat(batch.temperature, batch.token_ids.shape[1])[kept]
        support = None
        if batch.support is not None:
            support = batch.support.reshape(-1, batch.support.shape[-1])[kept]
        found = self._score(flat, token_ids, support, temperatures, train_entropies, hits)
        if padding is not None:
            found = [padding.insert(one) for one in found]
        return [one.reshape(batch.token_ids.shape) for one in found]

    def _score(
        self,
        flat: mx.array,
        token_ids: np.ndarray,
        support: np.ndarray | None,
        temperatures: np.ndarray,
        train_entropies: bool = False,
        hits: bool = False,
    ) -> Sequence[mx.array]:
        """Log-probabilities (M,) and entropies (M,) of tokens, from hidden states (M, D).

        With ``hits`` there is a third array (M,): 1 for each most probable token, without gradient.
        """
        targets, temperature = mx.array(token_ids), mx.array(temperatures)[:, None]
        vocabulary = self._vocabulary(flat)
        rows = max(1, _CHUNK // vocabulary, flat.shape[-1] // _OF_HEAD)

        def judge(logits: mx.array, where: slice) -> Sequence[mx.array]:
            if logits.dtype != mx.float64:
                logits = logits.astype(mx.float32)
            logits = self._known(logits)
            inside = None if support is None else mx.array(support[where])
            scores = token_logprobs(
                logits / temperature[where], targets[where], inside, train_entropies
            )
            return (*scores, most_probable(logits, targets[where])) if hits else scores

        if rows < len(flat):
            # On a GPU more and smaller operations would cost more than they save.
            few = max(1, _CHUNK // vocabulary) if mx.default_device() == mx.cpu else rows
            return in_chunks(self._head, judge, flat, rows, few)
        return judge(self._head(flat), slice(None))

    def _vocabulary(self, flat: mx.array) -> int:
        return int(self._head(flat[:1]).shape[-1])  # lazy: nothing is computed


def token_logprobs(
    logits: mx.array,
    targets: mx.array,
    support: mx.array | None,
    train_entropies: bool = False,
) -> tuple[mx.array, mx.array]:
    """Log-probabilities (M,) of targets over a support, and its entropies (M,).

    Args:
        logits: (M, V), already divided by the temperature.
        targets: (M,) token ids, each in its support.
        support: (M, K) ids padded with -1; None for the whole vocabulary.
        train_entropies: let gradients flow through the entropies too.
    """
    chosen = mx.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    if support is not None:
        # A row without ids is padding of the batch: one entry keeps it finite.
        inside = (support >= 0) | (mx.arange(support.shape[1]) == 0)
        gathered = mx.take_along_axis(logits, mx.maximum(support, 0), axis=-1)
        logits = mx.where(inside, gathered, -mx.inf)
    normalizer = logsumexp(logits)
    # For a token that cannot be drawn, neither the product nor its gradient may be 0 * inf.
    finite = mx.maximum(logits, _FINITE)
    if train_entropies:
        surprise = softmax(logits) * finite
        return chosen - normalizer, normalizer - block_sum(surprise)
    fixed = mx.stop_gradient(normalizer)[:, None]
    surprise = exp_below(mx.stop_gradient(logits), fixed) * mx.stop_gradient(finite)
    return chosen - normalizer, fixed[:, 0] - block_sum(surprise)


def most_probable(logits: mx.array, targets: mx.array) -> mx.array:
    """1 for each target (M,) whose logit is the largest of its row (M, V), else 0; no gradient."""
    logits = mx.stop_gradient(logits)
    chosen = mx.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    return (chosen >= logits.max(axis=-1)).astype(mx.float32)


def frozen_scores(model: nn.Module) -> Callable[[TokenBatch], mx.array]:
    """A function of a batch that gives its log-probabilities (N, T) under the model as it is now.

    It keeps the weights that are trained as they are now, and puts them in the place of the present
    ones while it scores. So call this when the model is ready to be trained, with its adapters.
    """
    scorer = Scorer(model)
    start = tree_map(mx.array, model.trainable_parameters())  # not changed in place by others
    mx.eval(start)  # another thread than this one may score

    def score(batch: TokenBatch) -> mx.array:
        present = model.trainable_parameters()
        model.update(start)
        try:
            logprobs = scorer(batch)[0]
            mx.eval(logprobs)
        finally:
            model.update(present)
        return logprobs

    return score


def by_parts(
    score: Callable[[TokenBatch], mx.array], batch: TokenBatch, rows: int | None
) -> np.ndarray:
    """A function (N, T) of a batch's tokens, computed for ``rows`` trajectories at a time.

    Args:
        score: a function of a batch, such as its log-probabilities.
        batch: the batch.
        rows: how many trajectories to compute at a time; None: all.
    """
    step = rows or len(batch)
    out = np.zeros(batch.token_ids.shape, np.float32)
    for start in range(0, len(batch), step):
        part = batch.take(np.arange(start, min(start + step, len(batch))))
        out[start : start + step, : part.token_ids.shape[1]] = np.array(score(part))
    return out
