"""What the tests of comparisons share."""

from functools import partial

import pytest

from tests.algos.compare.shared import use


@pytest.fixture
def fakes(monkeypatch):
    """``fakes(*agents)``: let these be compared, whatever agents are named."""
    return partial(use, monkeypatch)
