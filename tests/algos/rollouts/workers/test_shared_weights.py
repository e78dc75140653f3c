"""Weights in shared memory: what is read is what was written, and stays so."""

from __future__ import annotations

import os
import tempfile

import numpy as np
import pytest

from textenv.algos.rollouts.workers import shared_weights
from textenv.algos.rollouts.workers.shared_weights import SharedWeights

RNG = np.random.default_rng(0)
ARRAYS = {
    "matrix": RNG.normal(size=(5, 7)).astype(np.float32),
    "transposed": RNG.normal(size=(5, 7)).T,
    "every other": np.arange(20)[::2],
    "bits of bfloat16": RNG.integers(2**16, size=3).astype(np.uint16),
    "big-endian": np.arange(4, dtype=">f8"),
    "a number": np.array(2.5),
    "nothing": np.zeros((0, 3), np.float32),
}


@pytest.fixture(params=["memfd", "file"])
def pair(request, monkeypatch):
    """Both ends, in memory and in a temporary file."""
    if request.param == "file":
        monkeypatch.delattr(os, "memfd_create", raising=False)
    elif not hasattr(os, "memfd_create"):
        pytest.skip("this system has no memfd_create")
    one = SharedWeights()
    other = SharedWeights(os.dup(one.number))
    yield one, other
    one.close()
    other.close()


def test_what_is_read_is_what_was_written(pair):
    one, other = pair
    for arrays in (ARRAYS, {"small": np.ones(2)}, {}, ARRAYS):  # larger and smaller than before
        found = other.read(one.write(arrays))
        assert [*found] == [*arrays]
        for name, array in arrays.items():
            assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
            np.testing.assert_array_equal(found[name], array)


def test_what_was_read_does_not_change_afterwards(pair):
    one, other = pair
    found = other.read(one.write({"w": np.ones(1000)}))
    one.write({"w": np.zeros(1000)})
    np.testing.assert_array_equal(found["w"], np.ones(1000))
    found["w"][:] = 2.0  # and belongs to the reader
    one.clear()
    np.testing.assert_array_equal(found["w"], np.full(1000, 2.0))


def test_the_memory_is_given_back(pair):
    one, other = pair
    places = one.write({"w": np.ones(10**6)})
    assert os.fstat(other.number).st_size >= 8 * 10**6
    one.clear()
    assert os.fstat(other.number).st_size == 0
    with pytest.raises(ValueError):
        other.read(places)


def test_the_file_has_no_name(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delattr(os, "memfd_create", raising=False)
    weights = shared_weights.SharedWeights()
    weights.write(ARRAYS)
    assert list(tmp_path.iterdir()) == []
    weights.close()
