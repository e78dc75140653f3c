"""Where rows are that continue shared prompts."""

from __future__ import annotations

import numpy as np
import pytest

from textenv.algos.lm.cache.layout import best_group, lay_out
from textenv.algos.runtime import backend

backend.prepare()


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
