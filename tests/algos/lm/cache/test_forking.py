"""Rows of forked caches that are taken apart and joined, against each row's sequence alone."""

from __future__ import annotations

import numpy as np
import pytest

from tests.algos.lm.cache.shared import GROUPS, SIZE, Rows, drawing
from textenv.algos.lm.cache.forking import join_caches
from textenv.algos.lm.cache.kv_cache import GrowingCache
from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize(
    ("prompts", "places", "group"),
    [
        ([0, 1, 2], [0, 1, 2, 3, 4, 5], 2),
        ([0, 2], [1, 4], 1),
        ([2], [5], 1),
        ([1, 2], [2, 3, 4, 5], 2),
        ([0, 0, 2], [0, 1, 5], 1),  # one prompt for two rows apart
        ([2, 0], [4, 5, 1, 0], 2),
    ],
)
def test_some_places_go_on_as_before(prompts, places, group, window):
    rows = Rows()
    rows.step(2, window)
    rows.step(3, window, given=[3, 1, 2, 0, 3, 1])
    rows.take(prompts, places, group)
    for _ in range(4):
        rows.step(1, window)


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("before", [(0, 3), (3, 0), (2, 5)])
def test_joined_batches_are_each_row_alone(before, alone, window):
    """Prompts of other lengths; columns since then none, fewer or more; holes on either side."""
    group = 1 if alone else 2
    first = Rows(group=group, alone=alone)
    second = Rows(9, (3, 0), group, alone, seed=1)
    for rows, count in zip((first, second), before):
        for _ in range(count):
            rows.step(1, window)
        if count > 2:
            rows.step(3, window, given=[1, 3, 2, 0, 2, 3][: len(rows.past)])
    first.join(second)
    for _ in range(3):
        first.step(1, window)
    first.step(2, window, given=[2, 0, 1] * (len(first.past) // 3) + [1] * (len(first.past) % 3))
    first.step(1, window)


@pytest.mark.parametrize("window", [None, 4])
def test_growing_caches_are_joined(window):
    """For models that attend in a way of their own: padding, and nothing between."""
    normal, past, caches = drawing(), [], []
    for padding, columns in (((0, 2), 5), ((1, 0, 0), 9)):
        cache = GrowingCache(mx.array(padding))
        keys, values = (normal(len(padding), GROUPS, columns, SIZE) for _ in "kv")
        cache.update_and_fetch(keys, values)
        past += [[x[i, :, pad:][None] for x in (keys, values)] for i, pad in enumerate(padding)]
        caches.append(cache)
    (joined,) = join_caches(*([cache] for cache in caches))
    assert joined.offset.tolist() == [x[0].shape[2] for x in past]
    mask = np.array(joined.make_mask(1, window_size=window))
    joined.update_and_fetch(*(normal(5, GROUPS, 1, SIZE) for _ in "kv"))
    for row, (keys, values) in enumerate(past):
        seen = mask[row, 0, 0]
        total = keys.shape[2] + 1
        assert seen.sum() == min(total, window or total) and seen[-1]
        for got, expected in ((joined.keys, keys), (joined.values, values)):
            kept = np.array(got[row])[:, seen][:, :-1]
            last = np.array(expected[0])
            np.testing.assert_array_equal(kept, last[:, last.shape[1] - kept.shape[1] :])


def test_columns_that_no_row_has_are_dropped():
    """Rows that joined later: once the older ones have gone, so have their columns."""
    first, second = Rows(), Rows(9, (3, 0), seed=1)
    for _ in range(7):
        first.step()
    first.join(second)
    first.step()
    assert first.cache.columns == 8
    first.take([3, 4], [6, 7, 8, 9], 2)
    assert first.cache.columns == 1 and first.cache.positions.holes is None
    first.step()


@pytest.mark.parametrize("window", [None, 4])
def test_the_last_columns_are_dropped_too(window):
    """Rows that ended before the others, without what was computed for them since."""
    rows = Rows()
    for given in ([1] * 6, [1, 0, 1, 0, 1, 1], [1, 0, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1]):
        rows.step(1, window, given)
    rows.take([0, 1], [0, 1, 2, 3], 2)
    assert rows.cache.columns == 3
    rows.step(2, window, given=[1, 2, 2, 0])
    rows.step(1, window)


def test_places_that_are_copied_keep_their_free_columns():
    rows = Rows(room=16)
    rows.step(2, None)
    rows.take([0, 0, 2], [0, 1, 5], 1)
    assert rows.cache.room == 16
    rows.step(3, None)
    assert (rows.cache.columns, rows.cache.room) == (5, 16)
