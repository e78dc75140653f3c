"""Prompts that begin alike, against each of them on its own."""

import mlx.core as mx
import numpy as np
import pytest

from tests.algos.lm.architectures import config_of
from textenv.algos.lm.cache.prefill import prefill, prefill_after
from textenv.algos.lm.models.architecture import check_architecture
from textenv.algos.lm.models.head import split_head

STEM = 9  # longer than the windows

# How many tokens each prompt has after the stem, and the least number of columns.
SHAPES = {
    "even": ([4, 4, 4], 0),
    "even in wider caches": ([4, 4], 16),
    "ragged": ([5, 1, 3], 0),
    "ragged in wider caches": ([2, 7, 1, 1], 24),
    "twice the same": ([3, 3], 0),
    "one": ([2], 0),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["llama", "gemma3_text", "cohere2", "gpt2", "phi"])
def test_caches_and_hidden_states_are_those_of_whole_prompts(random_model, name, shape):
    rests, width = SHAPES[shape]
    model = random_model(**config_of(name))
    layers = check_architecture(model)
    body, _ = split_head(model)
    rng = np.random.default_rng(0)
    stem = rng.integers(2, 40, STEM).tolist()
    prompts = [stem + rng.integers(2, 40, count).tolist() for count in rests]
    if shape == "twice the same":
        prompts[1] = prompts[0]
    caches, hidden = prefill_after(body, layers, prompts, STEM, width)
    columns = max(width, *map(len, prompts))
    assert len(caches) == layers
    for row, prompt in enumerate(prompts):
        alone, last = prefill(body, layers, [prompt])
        np.testing.assert_allclose(np.array(hidden[row]), np.array(last[0]), atol=1e-4)
        for cache, other in zip(caches, alone):
            assert cache.columns == columns
            assert cache.padding.tolist() == [columns - len(p) for p in prompts]
            assert cache.padded == any(cache.padding.tolist())
            for held, expected in zip(cache.arrays, other.arrays):
                assert held.shape[2] == columns
                own = np.array(held[row, :, columns - len(prompt) :])
                np.testing.assert_allclose(own, np.array(expected[0]), atol=1e-4)


def test_the_stem_goes_through_once(random_model):
    model = random_model(**config_of("phi"))
    layers = check_architecture(model)
    body, _ = split_head(model)
    shapes = []

    def spied(ids, caches):
        shapes.append(ids.shape)
        return body(ids, caches)

    prompts = [[*range(2, 12), 30 + i, *[5] * i] for i in range(4)]
    mx.eval(prefill_after(spied, layers, prompts, 10)[1])
    assert shapes == [(1, 10), (4, 4)]
