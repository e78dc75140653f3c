"""Global random states and printing of other libraries."""

import random

import numpy as np
import pytest

from textenv.tasks.libraries.contained import Contained


def test_what_happens_inside_stays_there(capsys, states):
    before = states()
    contained = Contained(7)
    for _ in range(2):
        with contained.inside():
            print("noise")
            random.random(), np.random.rand()  # noqa: NPY002
        assert states() == before
    with pytest.raises(KeyError), contained.inside():
        random.seed(1)
        raise KeyError
    assert states() == before
    again = Contained(7)
    with again.inside():
        drawn = [random.random() for _ in range(3)]
    other = Contained(7)
    parts = []
    for _ in range(3):
        with other.inside():
            parts.append(random.random())
    assert parts == drawn
    assert capsys.readouterr().out == ""
