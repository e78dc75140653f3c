"""Caches of many rows against each row's sequence alone: forks, holes, joined batches."""

from __future__ import annotations

import numpy as np
import pytest

from textenv.algos.lm.cache.forking import join_caches, take_places, with_positions
from textenv.algos.lm.cache.kv_cache import ForkedCache, GrowingCache, positions_alone
from textenv.algos.lm.cache.layout import best_group, lay_out
from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402

HEADS, GROUPS, SIZE = 4, 2, 4
rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def same_numbers():
    """Every test draws the same, whichever others run."""
    global rng
    rng = np.random.default_rng(0)


def normal(*shape):
    return mx.array(rng.normal(size=shape).astype(np.float32))


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
    """

    def __init__(self, columns=6, padding=(0, 2, 5), group=2, alone=False, room=3):
        prompts = GrowingCache(mx.array(padding), any(padding))
        prompts.update_and_fetch(*(normal(len(padding), GROUPS, columns, SIZE) for _ in "kv"))
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
        keys, values = normal(count, GROUPS, n, SIZE), normal(count, GROUPS, n, SIZE)
        queries = normal(count, HEADS, n, SIZE)
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


@pytest.mark.parametrize("padding", [(0, 2, 5), (0, 0, 0)])
@pytest.mark.parametrize("room", [0, 1, 3, 64])
@pytest.mark.parametrize("window", [None, 4])
def test_a_fork_is_each_sequence_alone(padding, room, window):
    rows = Rows(padding=padding, room=room)
    for n in (3, 1, 2, 1, 1):
        rows.step(n, window)


@pytest.mark.parametrize("padding", [(0, 2, 5), (0, 0, 0)])
@pytest.mark.parametrize("window", [None, 4])
def test_rows_with_a_prompt_for_themselves(padding, window):
    rows = Rows(padding=padding, group=1, alone=True)
    for n in (1, 3, 1):
        rows.step(n, window)
    rows.take([2, 0], [2, 0], 1)  # the longest padding is now that of no row, or of one
    rows.step(1, window)
    assert rows.cache.columns == 12


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("window", [None, 3])
def test_rows_that_are_given_fewer_columns_have_holes(alone, window):
    rows = Rows(group=1 if alone else 2, alone=alone)
    count = len(rows.past)
    rows.step(2, window)
    rows.step(4, window, given=[4, 1, 0, 2, 3, 4][:count])
    rows.step(1, window)
    rows.step(3, window, given=[0, 3, 1, 1, 2, 0][:count])
    rows.step(2, window)


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
    second = Rows(9, (3, 0), group, alone)
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
    past, caches = [], []
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
    first, second = Rows(), Rows(9, (3, 0))
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


@pytest.mark.parametrize(
    "index", [[0], [0, 0, 1, 1], [1, 0, 1, 0], [0, 1, 1, 1], [2, 2, 0], [0, 0, 0, 0, 0, 1, 2, 3]]
)
@pytest.mark.parametrize("shared", [True, False])
def test_every_row_has_one_place_with_its_own_prompt(index, shared):
    index = np.array(index)
    layout = lay_out(index, 4, shared)
    prompts = np.arange(4) if layout.prompts is None else layout.prompts
    assert sorted(s for s in layout.slots if s >= 0) == list(range(len(index)))
    for place, row in enumerate(layout.slots):
        if row >= 0:
            assert prompts[place // layout.per_prompt] == index[row]
    np.testing.assert_array_equal(layout.slots[layout.places], np.arange(len(index)))
    assert len(layout.slots) <= 1.5 * len(index)
    if not shared:
        assert layout.per_prompt == 1


def test_prompts_are_shared_where_that_wastes_little():
    even = lay_out(np.repeat(np.arange(4), 8), 4)
    assert even.prompts is None and even.per_prompt == 8 and even.is_identity
    uneven = lay_out(np.array([0] * 8 + [1]), 2)  # with G = 8, 16 places for 9 rows
    assert uneven.per_prompt == 4 and uneven.prompts.tolist() == [0, 0, 1]
    some = lay_out(np.array([1, 1, 3, 3]), 4)
    assert some.prompts.tolist() == [1, 3] and some.per_prompt == 2


@pytest.mark.parametrize(
    ("counts", "cost", "group"),
    [
        ([4, 4], 1, 4),
        ([1, 1, 1], 1, 1),
        ([8, 8, 1, 1, 1], 0.1, 1),  # copies cost next to nothing
        ([8, 8, 1], 3, 8),  # 24 places and 3 prompts, against 20 and 5
        ([8, 8, 1], 1, 4),
        ([8, 1, 1, 1], 100, 2),  # 3, 4 or 8 would leave more than a third of the places idle
    ],
)
def test_places_for_each_prompt(counts, cost, group):
    """The cheapest of all G with at most half as many idle places as rows, by hand."""
    counts = np.array(counts)
    assert best_group(counts, cost) == group
