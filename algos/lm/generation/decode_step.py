"""One decoding step: a token is drawn for each row and goes through the model, which gives logits.

The step is a function of arrays alone. Keys and values have free columns, which are hidden until
they are written, so that many steps have the same shapes. Once some shapes have occurred often
enough, the step is compiled for them (`mx.compile`). Small models gain most: without it, each of
their many small operations costs more to be sent than to be computed.

Shapes: as in `textenv.algos.lm.cache.kv_cache`; V vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, NamedTuple

from textenv.algos.lm.generation.sampling import SamplingParams, draw, restrict
from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402

from textenv.algos.lm.cache.kv_cache import ForkedCache  # noqa: E402
from textenv.algos.lm.cache.positions import bucket  # noqa: E402
from textenv.algos.lm.cache.step_cache import StepCache, StepPlace  # noqa: E402
from textenv.algos.runtime.compile import traced  # noqa: E402

_OFTEN = 16  # steps of the same shapes before they are compiled, which costs about as many
_MOST_SEEN = 10_000  # different shapes that are counted
_MOST = 64  # different shapes that are compiled; each stays in memory


class Drawn(NamedTuple):
    """One token for each row of a batch, and what is recorded of it."""

    tokens: mx.array
    """(B,) token ids."""
    logprobs: mx.array
    """(B,) the tokens' log-probabilities."""
    entropies: mx.array
    """(B,) the entropies of the distributions that they were drawn from."""
    inside: mx.array | None
    """(B, V) which tokens could be drawn; None if all could."""


def draw_tokens(
    logits: mx.array, noise: mx.array, params: SamplingParams, places: mx.array | None = None
) -> Drawn:
    """Draw a token for each row, or for each of N rows that have their logits in some places.

    Args:
        logits: (B, V).
        noise: (B,) or (N,), in [0, 1).
        params: the sampling distribution.
        places: (N,) the place of each row's logits; None: a place for each row.
    """
    restricted = restrict(logits, params)
    inside = None if params.full_support else restricted > -mx.inf
    if inside is not None and places is not None:
        inside = inside[places]
    return Drawn(*draw(restricted, noise, places), inside)


class Decoder:
    """Takes decoding steps with one model.

    Args:
        model: an mlx-lm model that can share prompts.
        body: the model's layers, from `textenv.algos.lm.models.head.split_head`.
        head: the function that makes logits of hidden states.
        often: steps of the same shapes before they are compiled.
    """

    def __init__(
        self,
        model: nn.Module,
        body: Callable[..., mx.array],
        head: Callable[[mx.array], mx.array],
        often: int = _OFTEN,
    ):
        self._model, self._body, self._head = model, body, head
        self._often = often
        self._seen: Counter[Hashable] = Counter()
        self._compiled: dict[Hashable, Callable[..., Any]] = {}

    def __call__(
        self,
        caches: Sequence[ForkedCache],
        logits: mx.array,
        noise: mx.array,
        params: SamplingParams,
    ) -> tuple[Drawn, mx.array]:
        """Draw a token for each row, and run the model on them.

        Args:
            caches: the cache of each layer; a column is added to them.
            logits: (B, V) for the tokens to draw.
            noise: (B,), in [0, 1).
            params: the sampling distribution.

        Returns:
            What was drawn, and the logits (B, V) for the next tokens.
        """
        first = caches[0]
        for cache in caches:
            cache.make_room(1)
        owns = [array for cache in caches for array in cache.own]
        shared = [array for cache in caches for array in cache.shared]
        columns = min(bucket(first.columns + 1), first.room)  # of the rows' own, attended to
        hidden = first.positions.over_own(columns, first.per_prompt)
        padding = first.positions.over_prompt(first.width)
        biases = {"own": hidden, "prompt": padding}
        given = {name: bias for name, bias in biases.items() if bias is not None}
        start = first.positions.start.astype(mx.int32)
        args = logits, noise, mx.array(first.columns), start, given, shared, owns
        form = params, first.per_prompt, columns
        # The shapes of all arguments follow from these.
        key = *form, tuple(given), logits.shape, first.width, first.room
        drawn, logits, owns = self._function(key, form)(*args)
        for i, cache in enumerate(caches):
            cache.take_column(owns[2 * i], owns[2 * i + 1])
        tokens, logprobs, entropies, *inside = drawn
        return Drawn(tokens, logprobs, entropies, inside[0] if inside else None), logits

    def _function(self, key: Hashable, form: tuple[SamplingParams, int, int]) -> Callable[..., Any]:
        """The step as a function of arrays, compiled if its shapes have occurred often."""
        if key in self._compiled:
            return self._compiled[key]
        step = partial(self._step, *form)
        self._seen[key] += 1
        if self._seen[key] <= self._often or len(self._compiled) >= _MOST:
            if len(self._seen) > _MOST_SEEN:
                self._seen.clear()
            return step

        def whole(*args: Any) -> Any:
            with traced():  # pieces that are compiled by themselves stay so inside this one
                return step(*args)

        quick = self._compiled[key] = mx.compile(whole, inputs=self._model.state)

        def first(*args: Any) -> Any:
            weights = self._model.parameters()
            result = quick(*args)
            self._model.update(weights)  # tracing left other objects in place of the same arrays
            return result

        return first

    def _step(
        self,
        params: SamplingParams,
        per_prompt: int,
        columns: int,
        logits: mx.array,
        noise: mx.array,
        position: mx.array,
        start: mx.array,
        biases: dict[str, mx.array],
        shared: Sequence[mx.array],
        owns: Sequence[mx.array],
    ) -> tuple[list[mx.array], mx.array, list[mx.array]]:
        drawn = draw_tokens(logits, noise, params)
        layers = len(owns) // 2
        ahead = _hidden_from(position + 1, columns)
        over_own = biases["own"] + ahead if "own" in biases else ahead
        place = StepPlace(position, start + position, over_own, biases.get("prompt"), per_prompt)
        caches = [
            StepCache(place, shared[2 * i : 2 * i + 2], owns[2 * i : 2 * i + 2])
            for i in range(layers)
        ]
        states = self._body(drawn.tokens[:, None], caches)
        logits = self._head(states[:, -1])
        written = [array for cache in caches for array in cache.own]
        return [array for array in drawn if array is not None], logits, written


def _hidden_from(column: mx.array, columns: int) -> mx.array:
    """What is added to scores to hide all columns from one on, (columns,)."""
    return mx.where(mx.arange(columns) < column, 0.0, -mx.inf)
