"""Leaves the padding of a batch out of what is computed, with gradients that are gathers.

Everything in a model but attention takes tokens one by one, and each token of padding costs as much
as another. MLX's gradient of a gather adds up a scatter. Here each token has one place, so that
both directions, and the gradients of both, are gathers.

Shapes: M places, of which K are kept: those that hold a token, and so many others that few
different K occur, since for each new shape functions are compiled anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402

from textenv.algos.lm.cache.positions import bucket  # noqa: E402

_LEAST_SAVED = 1 / 8  # of M; with less, the gathers cost about what they save


class Padding:
    """The places that are left out; see `find_padding`.

    Args:
        kept: (M,) bool, whether a place is kept.

    Attributes:
        kept: the argument.
    """

    def __init__(self, kept: np.ndarray):
        self.kept = kept
        index, filled = mx.array(np.flatnonzero(kept)), mx.array(kept)
        order = mx.array(np.maximum(np.cumsum(kept) - 1, 0))  # of each place among the kept ones

        def of_kept(places: mx.array) -> mx.array:
            return places[index]

        def of_all(tokens: mx.array) -> mx.array:
            there = filled.reshape(-1, *[1] * (tokens.ndim - 1))
            return mx.where(there, tokens[order], mx.array(0, tokens.dtype))

        self._remove = _with_gradient(of_kept, of_all)
        self._insert = _with_gradient(of_all, of_kept)

    def remove(self, places: mx.array) -> mx.array:
        """The places that are kept (K, ...), of all places (M, ...)."""
        return self._remove(places)

    def insert(self, tokens: mx.array) -> mx.array:
        """All places (M, ...): those that are kept (K, ...), and zeros (False) in the others."""
        return self._insert(tokens)


def find_padding(filled: np.ndarray) -> Padding | None:
    """The padding among places, if there is so much of it that it pays to leave it out.

    Args:
        filled: (M,) bool, whether a place holds a token.
    """
    count = bucket(max(1, int(np.count_nonzero(filled))))
    if len(filled) - count < _LEAST_SAVED * len(filled):
        return None
    empty = np.flatnonzero(~filled)[: count - np.count_nonzero(filled)]
    kept = filled.copy()
    kept[empty] = True
    return Padding(kept)


def _with_gradient(
    function: Callable[[mx.array], mx.array], gradient: Callable[[mx.array], mx.array]
) -> Callable[[mx.array], mx.array]:
    """A linear function of one array, with the function that gives its gradient."""
    known: Any = mx.custom_function(function)
    known.vjp(lambda primal, cotangent, output: gradient(cotangent))
    return known
