"""Tests how fast a model's architecture can be run: prompts shared, copied, or one by one.

From the fastest way to the one that asks the least of an architecture:

- Shared prompts: a prompt's keys and values are held once for all of its completions (a
  `ForkedCache`), and in training prompts and completions go through the model together
  (`textenv.algos.lm.cache.packed`).
- Copied prompts: prompts of any lengths go through the model together, padded on the left, and are
  copied for each completion. This is for attention with a function of its own, such as soft-capped
  scores.
- The plain path (`PlainGenerator`, `plain_hidden`): no padding on the left, mlx-lm's own caches.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from textenv.algos.lm.cache import packed
from textenv.algos.runtime import backend
from textenv.errors import ConfigError

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache  # noqa: E402

from textenv.algos.lm.cache.kv_cache import ForkedCache, GrowingCache  # noqa: E402
from textenv.algos.lm.cache.layout import lay_out  # noqa: E402
from textenv.algos.lm.cache.take_rows import take_rows  # noqa: E402
from textenv.algos.lm.kernels.attention import use_shared_attention  # noqa: E402


def check_architecture(model: nn.Module) -> int:
    """Find out how a model can be run, and return how many layers of caches it has.

    Only the first call for a model tries, and warns if a slower way is needed. It sets
    ``model.runs_plainly``, whether the model takes the plain path, and ``model.shares_prompts``,
    whether `ForkedCache` and `textenv.algos.lm.cache.packed` work with it.

    Raises:
        ConfigError: for an architecture that computes another answer in a batch, or after its
            cache was copied, than for a sequence alone.
    """
    caches = make_prompt_cache(model)
    if not hasattr(model, "shares_prompts"):
        use_shared_attention(model)
        layers = len(caches)
        model.runs_plainly = not (_holds_keys_alone(caches) and _bears_padding(model, layers))
        model.shares_prompts = not model.runs_plainly and _can_share(model, layers)
        if model.runs_plainly:
            _check_plain_path(model)
            kinds = ", ".join(sorted({type(cache).__name__ for cache in caches}))
            warnings.warn(
                f"models of type {model.model_type!r} are run one prompt length at a time, on "
                f"caches of their own ({kinds}), and scored with the prompt repeated for each "
                "completion, which is slower and takes more memory",
                stacklevel=3,
            )
        elif not model.shares_prompts:
            warnings.warn(
                f"models of type {model.model_type!r} compute attention in a way of their own: "
                "prompts are copied for each completion, which is slower and takes more memory",
                stacklevel=3,
            )
    return len(caches)


def _holds_keys_alone(caches: list) -> bool:
    """Whether all caches hold keys and values alone, of the whole past or of a sliding window."""
    return all(
        type(cache) is KVCache or (type(cache) is RotatingKVCache and cache.keep == 0)
        for cache in caches
    )


def _bears_padding(model: nn.Module, layers: int) -> bool:
    """Whether a row that is padded on the left gives the same as alone."""
    alone = model(mx.array([[0, 1]]))[:, -1]
    caches = [GrowingCache(mx.array([0, 1, 0])) for _ in range(layers)]
    try:
        padded = model(mx.array([[1, 0, 1], [0, 0, 1], [1, 1, 1]]), cache=caches)[1:2, -1]
        return _agree(alone, padded)
    except (
        ValueError,
        TypeError,
        AttributeError,
    ):  # it cannot take these shapes or caches
        return False


def _can_share(model: nn.Module, layers: int) -> bool:
    """Whether continuations of a shared prompt give the same as whole sequences."""
    prompt, added = mx.array([[0, 1]]), mx.array([[1, 0], [0, 1]])
    whole = model(mx.array([[0, 1, 1, 0], [0, 1, 0, 1]]))[:, 2:]
    cache = [GrowingCache(mx.array([0]), padded=False) for _ in range(layers)]
    try:
        mx.eval(model(prompt, cache=cache))
        if not _agree(whole, model(added, cache=[ForkedCache(each, 2) for each in cache])):
            return False

        def body(ids: mx.array, caches: Any) -> mx.array:
            return model(ids, cache=caches)

        layout = lay_out(np.zeros(2, int), 1)
        if not _agree(whole, packed.forward(body, layers, [[0, 1]], layout, added)[1]):
            return False
        # Two prompts of different lengths that begin alike.
        begun = [[0, 1], [0, 1, 1]]
        layout = lay_out(np.array([0, 1]), 2)
        together = packed.forward(body, layers, begun, layout, added[:, :1], least_stem=1)[1]
        alone = [model(mx.array([[*ids, n]]))[0, -1:] for ids, n in zip(begun, (1, 0))]
        return _agree(mx.stack(alone), together)
    except (ValueError, AttributeError, AssertionError):
        return False


def _check_plain_path(model: nn.Module) -> None:
    """Try the plain path: continued prompts, and whole sequences padded on the right."""

    def forward(ids: mx.array) -> mx.array:
        return model(ids, cache=make_prompt_cache(model))

    prompts, index = mx.array([[0, 1, 1], [1, 0, 1]]), [0, 1, 1]
    added = mx.array([[0, 1], [1, 1], [0, 0]])
    rows = mx.array(index)
    whole = mx.concatenate([prompts[rows], added], axis=1)
    alone = mx.concatenate([forward(whole[i : i + 1]) for i in range(len(index))])[:, 3:]
    if not mx.isfinite(alone).all().item():
        return  # the weights are broken, not the architecture: the sampler will say so
    padded = forward(mx.concatenate([whole, mx.zeros((3, 4), whole.dtype)], axis=1))[:, 3:5]
    caches = make_prompt_cache(model)
    mx.eval(model(prompts, cache=caches))
    caches = take_rows(caches, rows, len(prompts))
    steps = [model(added[:, i : i + 1], cache=caches) for i in range(2)]
    for what, other in (("padded", padded), ("continued", mx.concatenate(steps, axis=1))):
        if not _agree(alone, other):
            raise ConfigError(
                f"models of type {model.model_type!r} compute another answer for sequences that "
                f"are {what} in a batch than for each alone, so that they cannot be trained here"
            )


def _agree(expected: mx.array, got: mx.array) -> bool:
    tolerance = 1e-3 if expected.dtype == mx.float32 else 5e-2
    most = tolerance * mx.abs(expected).max()
    return bool((mx.abs(expected - got).max() <= most).item())
