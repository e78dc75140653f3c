"""Where rows stand: positions, padding, holes and windows, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from textenv.algos.lm.cache.positions import RowPositions, bucket, pad_left, window
from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402

X = True  # a hole
HOLES = np.array([[0, 0, 0, 0], [X, X, 0, 0], [0, X, 0, X]], bool)


def three(padding=None):
    """Prompts of 5 tokens; after four columns the rows have 4, 2 and 2 tokens of their own."""
    return RowPositions(mx.array([5, 3, 3]), padding, HOLES)


def test_positions_count_what_is_there():
    rows = three()
    assert rows.offset(4).tolist() == [9, 7, 7]  # 5 + 4, 5 + 2, 5 + 2
    assert rows.offset(6).tolist() == [11, 9, 9]
    assert rows.prompt_tokens(4).tolist() == [5, 5, 5]
    assert RowPositions(mx.array([1]), None, np.zeros((1, 3), bool)).holes is None


def test_what_is_hidden_of_the_prompts():
    assert three().over_prompt(5) is None
    bias = three(mx.array([0, 2, 1])).over_prompt(5)
    assert bias.shape == (3, 1, 1, 1, 1, 5)
    hidden = np.isinf(np.array(bias).reshape(3, 5))
    assert hidden.sum(axis=1).tolist() == [0, 2, 1] and hidden[1].tolist() == [X, X, 0, 0, 0]


def test_what_is_hidden_of_the_rows_own_columns():
    assert RowPositions(mx.array([1, 1])).over_own(3, 1) is None
    rows = RowPositions(mx.array([5, 3, 3, 5]), None, np.vstack([HOLES, HOLES[:1]]))
    for columns in (4, 6, 5):  # later ones are of all rows; made anew where there is no room
        bias = rows.over_own(columns, 2)
        assert bias.shape == (2, 1, 2, 1, 1, columns)
        hidden = np.isinf(np.array(bias).reshape(4, columns))
        np.testing.assert_array_equal(hidden[:3, :4], HOLES)
        assert not hidden[:, 4:].any() and not hidden[3].any()


def test_columns_that_are_left_out_are_holes():
    rows = three().leave_out(np.array([3, 1, 0]), np.array([6, 3, 0]), 6)
    np.testing.assert_array_equal(
        rows.holes, [[0, 0, 0, X, X, X], [X, X, X, 0, 0, 0], [0, X, 0, X, 0, 0]]
    )
    # Rows 0 and 1 lose three and one; what was a hole already is none that is new.
    assert rows.offset(6).tolist() == [8, 8, 9]
    same = three()
    assert same.leave_out(np.array([0, 0, 1]), np.array([0, 2, 2]), 4) is same


def test_rows_are_cut_to_their_first_tokens():
    rows = three().cut(np.array([7, 9, 4]), 4)
    np.testing.assert_array_equal(rows.holes, [[0, 0, X, X], [X, X, 0, 0], [X, X, X, X]])
    assert rows.offset(4).tolist() == [7, 7, 5]  # the prompt stays in any case
    same = three()
    assert same.cut(np.array([9, 7, 7]), 4) is same


def test_the_stretch_that_holds_something():
    holes = np.array([[X, X, 0, X], [X, 0, 0, X]], bool)
    assert RowPositions(mx.array([0, 0]), None, holes).stretch(4) == (1, 3)
    assert RowPositions(mx.array([0, 0]), None, holes).stretch(6) == (1, 6)  # later: no holes
    assert RowPositions(mx.array([0])).stretch(7) == (0, 7)
    assert RowPositions(mx.array([0]), None, np.ones((1, 3), bool)).stretch(3) == (3, 3)


def test_some_rows_and_some_columns():
    rows = three().take(np.array([2, 2, 0]), (1, 3), 4, mx.array([1]))
    np.testing.assert_array_equal(rows.holes, [[X, 0], [X, 0], [0, 0]])
    # Two columns are gone: a column that they keep has the position that it had.
    assert rows.start.tolist() == [3 + 4 - 3 + 1, 3 + 4 - 3 + 1, 5 + 4 - 3 + 1]
    assert rows.padding.tolist() == [1]


def test_rows_with_fewer_columns_are_moved_to_the_right():
    other = RowPositions(mx.array([8]), None, np.array([[X, 0]], bool))
    for first, second, columns, ours, theirs in (
        (three(), other, (4, 2), slice(0, 3), slice(3, 4)),
        (other, three(), (2, 4), slice(1, 4), slice(0, 1)),
    ):
        joined = first.join(second, columns, None)
        np.testing.assert_array_equal(joined.holes[ours], HOLES)
        np.testing.assert_array_equal(joined.holes[theirs], [[X, X, X, 0]])
        offset = np.array(joined.offset(4))
        assert offset[ours].tolist() == [9, 7, 7] and offset[theirs].tolist() == [8 + 2]


def test_what_is_seen_in_a_sliding_window():
    """By counting, for each query, back from it over all that holds something."""
    rows = three(mx.array([0, 2, 1]))
    seen = np.array(rows.visible(5, 4, 2, 3))[:, 0]  # (3, 2, 5 + 4 + 2)
    for row, padding in enumerate((0, 2, 1)):
        filled = [i >= padding for i in range(5)] + [not hole for hole in HOLES[row]] + [True] * 2
        for query in (0, 1):
            before = [i for i in range(5 + 4 + query + 1) if filled[i]]
            assert np.flatnonzero(seen[row, query]).tolist() == before[-3:]


def test_windows_by_hand():
    filled = mx.array([[False, True, True, True]])
    assert np.array(window(filled, 2, None))[0, 0].tolist() == [[0, 1, 1, 0], [0, 1, 1, 1]]
    assert np.array(window(filled, 2, 1))[0, 0].tolist() == [[0, 0, 1, 0], [0, 0, 0, 1]]
    # A query in the padding sees itself alone.
    assert np.array(window(filled, 4, None))[0, 0, 0].tolist() == [1, 0, 0, 0]


def test_sequences_are_padded_on_the_left():
    ids, pads, padded = pad_left([[7, 8, 9], [5]])
    assert ids.tolist() == [[7, 8, 9], [0, 0, 5]] and pads.tolist() == [0, 2] and padded
    ids, pads, padded = pad_left([[7], [5]], width=2)
    assert ids.tolist() == [[0, 7], [0, 5]] and pads.tolist() == [1, 1] and padded
    assert not pad_left([[7], [5]])[2]


@pytest.mark.parametrize("least", [1, 16])
def test_widths_are_few_and_hardly_wider(least):
    widths = [bucket(n, least) for n in range(1, 2049)]
    for n, width in enumerate(widths, 1):
        assert n <= width < n + max(least, n / 8)
    assert widths == sorted(widths)
    assert len(set(widths)) < 90
