"""Rows of any model's caches, copied."""

from __future__ import annotations

from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402
from mlx_lm.models import cache  # noqa: E402

from textenv.algos.lm.cache.take_rows import take_rows  # noqa: E402


def test_rows_of_caches_are_copied():
    arrays = cache.ArraysCache(2)
    arrays[0] = mx.arange(6).reshape(3, 2)  # the second is not filled yet
    keys = cache.KVCache()
    keys.update_and_fetch(mx.arange(12.0).reshape(3, 1, 2, 2), mx.zeros((3, 1, 2, 2)))
    both = [cache.CacheList(arrays, keys)]
    (copied,) = take_rows(both, mx.array([2, 0, 2, 1]), 3)
    assert copied[0][0].tolist() == [[4, 5], [0, 1], [4, 5], [2, 3]] and copied[0][1] is None
    assert copied[1].offset == 2 and copied[1].keys.shape[0] == 4
    assert copied[1].keys[:, 0, 0, 0].tolist() == [8, 0, 8, 4]
    copied[1].update_and_fetch(mx.ones((4, 1, 1, 2)), mx.ones((4, 1, 1, 2)))
    copied[0][1] = mx.zeros((4, 1))
    assert keys.offset == 2 and keys.keys[:, 0, 2, 0].tolist() == [0, 0, 0] and arrays[1] is None
