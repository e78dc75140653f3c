"""Gradient checkpointing: the backward computes activations again, so that they are not kept.

Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost" (arXiv 1604.06174), section 4.
`recompute_layers` makes each layer a segment, `in_chunks` each chunk of rows.

What is kept of a layer is its input and, for prompts, their keys and values. A layer also writes
into the cache that it is given, from which later columns read, so gradients flow through the cache
too. Therefore a layer runs on a copy of its cache, whose arrays are arguments and results of the
function that is computed again, as the hidden states are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
from mlx.utils import tree_flatten, tree_map, tree_unflatten  # noqa: E402
from mlx_lm.models.cache import _BaseCache  # noqa: E402

from textenv.algos.lm.cache.kv_cache import ForkedCache, GrowingCache  # noqa: E402

_CACHES = (GrowingCache, ForkedCache, _BaseCache)  # the last is the base class of mlx-lm's caches


def recompute_layers(model: nn.Module, body: Callable[..., Any]) -> Callable[..., Any]:
    """The function ``body``, with a backward that computes each layer again.

    Args:
        model: an mlx-lm model; its layers are altered only while the function runs.
        body: a function that calls the model, or a part of it.
    """

    def recomputing(*args: Any, **kwargs: Any) -> Any:
        with _checkpointed(model.layers):
            return body(*args, **kwargs)

    return recomputing


@contextmanager
def _checkpointed(layers: Sequence[nn.Module]) -> Iterator[None]:
    """A block in which layers are called through `_call`.

    Python looks ``__call__`` up in the class, so each of these objects gets a class of its own.
    """
    kinds = [type(layer) for layer in layers]
    try:
        for layer, kind in zip(layers, kinds):
            layer.__class__ = type(kind.__name__, (kind,), {"__call__": _call})
        yield
    finally:
        for layer, kind in zip(layers, kinds):
            layer.__class__ = kind


def _call(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Call a layer so that its backward computes it again.

    Everything that gradients flow to or from passes through a function without side effects: the
    trainable weights, the arrays among the arguments, those in the caches, and the results.
    """
    kind = type(layer).__mro__[1]
    leaves = _leaves((args, kwargs))
    theirs = [leaf for leaf in leaves if isinstance(leaf, _CACHES)]
    caches = [_refilled(cache, _arrays(cache)) for cache in theirs]  # as they are now
    weights: Any = tree_flatten(layer.trainable_parameters())
    flat = [array for _, array in weights]
    flat += [array for cache in caches for array in _arrays(cache)]
    flat += [leaf for leaf in leaves if _flows(leaf)]
    first: list[Any] = []  # the result of the first run, and the caches after it

    def run(flat: list[mx.array]) -> list[mx.array]:
        arrays = iter(flat)
        inner = [(name, next(arrays)) for name, _ in weights]
        used = [_refilled(cache, arrays) for cache in caches]
        unused = iter(used)

        def replace(leaf: Any) -> Any:
            if isinstance(leaf, _CACHES):
                return next(unused)
            return next(arrays) if _flows(leaf) else leaf

        own_args, own_kwargs = tree_map(replace, (args, kwargs))
        with _weights(layer, inner):
            result = kind.__call__(layer, *own_args, **own_kwargs)
        if not first:
            first.extend([result, used])
        out: list[mx.array] = [leaf for leaf in _leaves(result) if _flows(leaf)]
        return out + [array for cache in used for array in _arrays(cache)]

    checkpointed = mx.custom_function(run)

    @checkpointed.vjp
    def backward(
        primals: list[mx.array], cotangents: list[mx.array], _: list[mx.array]
    ) -> list[mx.array]:
        # Wait for the gradient, or all layers would be computed again at once.
        primals = mx.depends(primals, cotangents)
        return mx.vjp(lambda *arrays: run(list(arrays)), primals, cotangents)[1]

    outputs = iter(cast("list[mx.array]", checkpointed(flat)))
    result, used = first
    first[:] = [None]  # so that what was computed lives only as long as the graph
    result = tree_map(lambda leaf: next(outputs) if _flows(leaf) else leaf, result)
    for cache, after in zip(theirs, used):
        vars(cache).update(vars(_refilled(after, outputs)))
    return result


def in_chunks(
    head: Callable[[mx.array], mx.array],
    function: Callable[[mx.array, slice], Sequence[mx.array]],
    inputs: mx.array,
    rows: int,
    few: int,
) -> list[mx.array]:
    """A function of a head's outputs, computed some rows at a time, and again in the backward.

    Each chunk waits for the one before it, in both directions. Otherwise MLX would compute
    independent chunks side by side, and hold the intermediate results of all of them at once. The
    function is computed of fewer rows at a time than the product with the head's weights, which is
    slow for few rows.

    Args:
        head: a module, a method of one, or a function without weights of its own.
        function: ``(outputs of some rows, slice) -> arrays``, each with these rows.
        inputs: the head's inputs, by rows.
        rows: how many rows a chunk has.
        few: how many rows of a chunk the function is given at a time.

    Returns:
        The arrays of all rows. Gradients flow to the inputs and to the head's weights.
    """
    owner = getattr(head, "__self__", head)  # for a method such as an embedding's as_linear
    module = owner if isinstance(owner, nn.Module) else None
    weights: Any = [] if module is None else tree_flatten(module.trainable_parameters())
    names = [name for name, _ in weights]
    slices = _slices(slice(0, len(inputs)), rows)

    is_matrix = isinstance(module, (nn.Linear, nn.Embedding)) and names == ["weight"]

    def part(where: slice, chunk: mx.array, *own: mx.array) -> list[mx.array]:
        with _weights(module, list(zip(names, own))):
            outputs = head(chunk)
        done: list[list[mx.array]] = []
        for at in _slices(where, few):
            some = outputs[at.start - where.start : at.stop - where.start]
            done.append(list(function(mx.depends(some, done[-1]) if done else some, at)))
        return [mx.concatenate(list(arrays)) for arrays in zip(*done)]

    @mx.custom_function
    def run(flat: list[mx.array]) -> list[mx.array]:
        whole, *own = flat
        done: list[list[mx.array]] = []
        for where in slices:
            chunk = whole[where]
            done.append(part(where, mx.depends(chunk, done[-1]) if done else chunk, *own))
        return [mx.concatenate(list(arrays)) for arrays in zip(*done)]

    @run.vjp
    def backward(
        primals: list[mx.array], cotangents: list[mx.array], _: list[mx.array]
    ) -> list[mx.array]:
        whole, *own = primals
        slopes: list[mx.array] = []  # one of each chunk
        total: list[mx.array] = []  # one of each weight
        for where in slices:
            cotangent = [array[where] for array in cotangents]
            chunk = mx.depends(whole[where], slopes[-1:] + total or cotangent)
            if is_matrix:  # its gradient is added up in place: that of a vocabulary is large
                outputs, outers = chunk @ own[0].T, list[mx.array]()
                for at in _slices(where, few):
                    some = outputs[at.start - where.start : at.stop - where.start]
                    some = mx.depends(some, outers[-1:]) if outers else some
                    slopes_of = [array[at] for array in cotangents]
                    outers += mx.vjp(lambda x, at=at: function(x, at), [some], slopes_of)[1]
                outer = mx.concatenate(outers)
                slope = outer @ own[0]
                new = mx.addmm(total[0], outer.T, chunk) if total else outer.T @ chunk
                slopes, total = [*slopes, slope], [new]
                continue
            slope, *grads = mx.vjp(partial(part, where), [chunk, *own], cotangent)[1]
            slopes.append(slope)
            total = [a + b for a, b in zip(total, grads)] if total else grads
        return [mx.concatenate(slopes), *total]

    return cast("list[mx.array]", run([inputs, *(array for _, array in weights)]))


def _slices(whole: slice, rows: int) -> list[slice]:
    """Parts of a slice, of some rows each."""
    return [slice(i, min(i + rows, whole.stop)) for i in range(whole.start, whole.stop, rows)]


@contextmanager
def _weights(module: nn.Module | None, weights: list[tuple[str, mx.array]]) -> Iterator[None]:
    """A block in which a module has other trainable weights."""
    if module is None:
        yield
        return
    outer = module.trainable_parameters()
    module.update(tree_unflatten(weights))
    try:
        yield
    finally:
        module.update(outer)


def _leaves(tree: Any) -> list[Any]:
    return list(dict(tree_flatten(tree)).values())


def _flows(leaf: Any) -> bool:
    """Whether gradients can flow through a value."""
    return isinstance(leaf, mx.array) and mx.issubdtype(leaf.dtype, mx.floating)


def _arrays(value: Any) -> Iterator[mx.array]:
    """The arrays in a cache that gradients flow through, whatever the cache is made of."""
    if _flows(value):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _arrays(item)
    elif isinstance(value, _CACHES):
        yield from _arrays(list(vars(value).values()))


def _refilled(value: Any, arrays: Iterator[mx.array]) -> Any:
    """A copy of a cache with other arrays, in the order of `_arrays`."""
    if _flows(value):
        return next(arrays)
    if isinstance(value, (list, tuple)):
        return type(value)([_refilled(item, arrays) for item in value])
    if isinstance(value, _CACHES):
        new = copy.copy(value)
        vars(new).update({name: _refilled(item, arrays) for name, item in vars(value).items()})
        return new
    return value
