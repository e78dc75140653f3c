"""The cache of one compiled step against the cache that grows."""

from __future__ import annotations

import numpy as np
import pytest

from tests.algos.lm.cache.shared import GROUPS, HEADS, SIZE, Rows, drawing
from textenv.algos.lm.cache.step_cache import StepCache, StepPlace
from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("alone", [False, True], ids=["shared", "alone"])
@pytest.mark.parametrize("padding", [(0, 2, 5), (0, 0, 0)])
def test_a_step_is_that_of_the_cache_that_grows(padding, alone, window):
    """Rows with holes; the step's columns may be wider than there is anything in them."""
    group = 1 if alone else 2
    rows = Rows(padding=padding, group=group, alone=alone, room=16)
    rows.step(3, window, given=[3, 1, 2, 0, 3, 1][: len(rows.past)])
    cache, normal = rows.cache, drawing(5)
    count, columns, width = len(rows.past), cache.columns, cache.columns + 4
    positions = cache.positions
    over_own = np.zeros((count // group, 1, group, 1, 1, width), np.float32)
    hidden = over_own.reshape(count, width)
    if positions.holes is not None:
        hidden[:, : positions.holes.shape[1]][positions.holes] = -np.inf
    hidden[:, columns + 1 :] = -np.inf
    shared = [] if cache.prompts is None else [cache.prompts.keys, cache.prompts.values]
    place = StepPlace(
        mx.array(columns),
        positions.offset(columns),
        mx.array(over_own),
        positions.over_prompt(cache.prompts.keys.shape[2]) if shared else None,
        group,
    )
    own = [
        mx.pad(mx.array(held)[..., :columns, :], [(0, 0)] * 3 + [(0, 4), (0, 0)])
        for held in cache.own
    ]
    step = StepCache(place, shared, own)
    np.testing.assert_array_equal(step.offset, cache.offset)
    queries = normal(count, HEADS, 1, SIZE)
    keys, values = normal(count, GROUPS, 1, SIZE), normal(count, GROUPS, 1, SIZE)
    mask = step.make_mask(1, window_size=window)
    step.update_and_fetch(keys, values)
    found = step.attend(queries, 0.5, mask)
    mask = cache.make_mask(1, window_size=window)
    cache.update_and_fetch(keys, values)
    np.testing.assert_allclose(found, cache.attend(queries, 0.5, mask), atol=1e-6)
