"""Functions that are compiled for too many shapes say so, once."""

from __future__ import annotations

import warnings

import numpy as np

from textenv.algos.runtime.compile import compiled


def twice(x, others):
    return 2 * x + sum(others)


def sizes(function, lengths):
    """Calls with arrays of these lengths; the warnings that came."""
    import mlx.core as mx

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for n in lengths:
            out = function(mx.ones(n), [mx.ones(n), mx.ones(1)])
            assert np.array_equal(np.array(out), np.full(n, 4.0))
    return [str(w.message) for w in caught]


def test_warns_once_of_too_many_shapes():
    function = compiled(twice, "keep batch_size fixed", most=4)
    assert sizes(function, [1, 2, 3, 4]) == []
    (message,) = sizes(function, [5, 6, 7, 8, 1])
    assert "twice" in message and "5 shapes" in message and "keep batch_size fixed" in message
    assert sizes(function, [9, 10]) == []


def test_equal_shapes_count_once():
    assert sizes(compiled(twice, "", most=2), [3, 4] * 10) == []


def test_types_and_structures_count_too():
    import mlx.core as mx

    function = compiled(twice, "", most=2)
    function(mx.ones(2), [])
    function(mx.ones(2), [mx.ones(2)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function(mx.ones(2, dtype=mx.int32), [])
    assert len(caught) == 1
