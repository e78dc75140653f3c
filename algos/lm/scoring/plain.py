"""The slow way to hidden states, for architectures that `Scorer` cannot batch.

This is for architectures that cannot share prompts, see `textenv.algos.lm.models.architecture`. A
prompt is computed again for each of its completions.

Shapes: as in `textenv.algos.lm.scoring.batch`; L longest prompt, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from textenv.algos.lm.scoring.batch import TokenBatch
from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
from mlx_lm.models.cache import make_prompt_cache  # noqa: E402


def plain_hidden(model: nn.Module, body: Callable[..., mx.array], batch: TokenBatch) -> mx.array:
    """The hidden states (N, T, D) that predict the tokens of a batch, from whole sequences.

    Sequences are padded on the right, which a causal model does not see. They go through caches
    although these are not used later: without one, some architectures, such as gemma3n, compute
    another function.
    """
    n, width = batch.token_ids.shape
    lengths = np.array([len(prompt) for prompt in batch.prompts])[batch.prompt_index]
    ids = np.zeros((n, int(lengths.max()) + width - 1), np.int32)
    for row, prompt, length, tokens in zip(ids, batch.prompt_index, lengths, batch.token_ids):
        row[:length] = batch.prompts[prompt]
        row[length : length + width - 1] = tokens[:-1]
    with _in_training(model):
        hidden = body(mx.array(ids), make_prompt_cache(model))  # (N, L + T - 1, D)
    if (lengths == lengths[0]).all():
        return hidden[:, int(lengths[0]) - 1 :]
    places = lengths[:, None] - 1 + np.arange(width)  # (N, T)
    return mx.take_along_axis(hidden, mx.array(places)[..., None], axis=1)


@contextmanager
def _in_training(model: nn.Module) -> Iterator[None]:
    """A block in training mode: some layers then avoid Metal kernels, which have no gradient."""
    was = model.training
    model.train()
    try:
        yield
    finally:
        model.train(was)
