"""A strict comparison of what environments return."""

import numpy as np
import pytest


@pytest.fixture
def same():
    """Asserts that two values are equal and have equal types, at every depth."""
    return assert_same


def assert_same(one, two, place=""):
    assert type(one) is type(two), f"{place}: {one!r} {two!r}"
    if isinstance(one, dict):
        assert one.keys() == two.keys(), f"{place}: {sorted(one)} {sorted(two)}"
        for key in one:
            assert_same(one[key], two[key], f"{place}.{key}")
    elif isinstance(one, tuple):
        for i, (left, right) in enumerate(zip(one, two, strict=True)):
            assert_same(left, right, f"{place}[{i}]")
    elif isinstance(one, np.ndarray):
        assert one.dtype == two.dtype and one.shape == two.shape, f"{place}: {one!r} {two!r}"
        assert one.tolist() == two.tolist(), f"{place}: {one!r} {two!r}"
    else:
        assert one == two, place
