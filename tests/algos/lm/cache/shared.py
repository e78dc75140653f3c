"""Caches of many rows beside each row's keys and values in a sequence of its own."""

from __future__ import annotations

import numpy as np

from textenv.algos.lm.cache.forking import join_caches, take_places, with_positions
from textenv.algos.lm.cache.kv_cache import ForkedCache, GrowingCache, positions_alone
from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402

HEADS, GROUPS, SIZE = 4, 2, 4


def drawing(seed=0):
    """``normal(*shape)``: arrays of one stream of noise."""
    rng = np.random.default_rng(seed)
    return lambda *shape: mx.array(rng.normal(size=shape).astype(np.float32))


def plain(queries, keys, values, window):
    """Attention of the last positions of one sequence, as it is written in textbooks."""
    keys, values = (mx.repeat(x, HEADS // GROUPS, axis=1) for x in (keys, values))
    total, n = keys.shape[2], queries.shape[2]
    at = np.arange(total - n, total)[:, None]
    seen = (at >= np.arange(total)) & (at < np.arange(total) + (window or total))
    scores = 0.5 * queries @ keys.swapaxes(-1, -2)
    return mx.softmax(mx.where(mx.array(seen), scores, -mx.inf), axis=-1) @ values


class Rows:
    """A cache, and beside it every row's keys and values in a sequence of its own.

    Args:
        columns: of the prompts.
        padding: of each prompt.
        group: continuations of each.
        alone: whether the prompts' columns are taken for the rows' own.
        room: of the cache.
        seed: of all that is drawn.
    """

    def __init__(self, columns=6, padding=(0, 2, 5), group=2, alone=False, room=3, seed=0):
        self._normal = drawing(seed)
        prompts = GrowingCache(mx.array(padding), any(padding))
        prompts.update_and_fetch(*(self._normal(len(padding), GROUPS, columns, SIZE) for _ in "kv"))
        if alone:
            self.cache = ForkedCache.alone(prompts, room, positions_alone(prompts))
        else:
            self.cache = ForkedCache(prompts, group, room)
        self.past = [
            [
                x[row // group][None, :, padding[row // group] :]
                for x in (prompts.keys, prompts.values)
            ]
            for row in range(len(padding) * group)
        ]

    def step(self, n=1, window=None, given=None):
        """Feed n columns, row b only the last ``given[b]`` of them, and compare what comes out."""
        count = len(self.past)
        given = [n] * count if given is None else given
        begins = np.full(count, self.cache.columns)
        ends = begins + n - np.array(given)
        positions = self.cache.positions.leave_out(begins, ends, self.cache.columns + n)
        (self.cache,) = with_positions([self.cache], positions)
        lengths = np.array([x[0].shape[2] for x in self.past])
        # The first column that is not left out has the row's next position.
        np.testing.assert_array_equal(self.cache.offset + mx.array(n - np.array(given)), lengths)
        keys, values = self._normal(count, GROUPS, n, SIZE), self._normal(count, GROUPS, n, SIZE)
        queries = self._normal(count, HEADS, n, SIZE)
        mask = self.cache.make_mask(n, window_size=window)
        self.cache.update_and_fetch(keys, values)
        out = self.cache.attend(queries, 0.5, mask)
        for row, own in enumerate(given):
            if not own:
                continue
            new = [x[row, :, n - own :][None] for x in (keys, values)]
            self.past[row] = [mx.concatenate(pair, axis=2) for pair in zip(self.past[row], new)]
            expected = plain(queries[row : row + 1, :, n - own :], *self.past[row], window)
            np.testing.assert_allclose(out[row : row + 1, :, n - own :], expected, atol=1e-5)

    def take(self, prompts, places, group):
        caches, _ = take_places([self.cache], np.array(prompts), np.array(places), group)
        (self.cache,), self.past = caches, [self.past[place] for place in places]

    def join(self, other):
        (self.cache,), self.past = join_caches([self.cache], [other.cache]), self.past + other.past
