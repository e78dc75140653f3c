"""Caches of many rows against each row's sequence alone: forks, holes, joined batches."""

from __future__ import annotations

import pytest

from tests.algos.lm.cache.shared import Rows
from textenv.algos.runtime import backend

backend.prepare()


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
