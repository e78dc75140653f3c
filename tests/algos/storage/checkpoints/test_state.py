"""States that are joined and given back, part by part."""

import numpy as np
import pytest

from textenv.algos.storage.checkpoints.state import State
from textenv.errors import DataError

INNER = State({"w": np.arange(3)}, {"count": 7, "rng": {"state": 2**127}})
OUTER = State.joined(
    {
        "runner": State.joined({"planner": INNER, "player": State()}),
        "run": State(values={"step": 3}),
    }
)


def test_joined_names_have_the_names_of_all_parts():
    assert list(OUTER.arrays) == ["runner/planner/w"]
    assert list(OUTER.values) == ["runner/planner/count", "runner/planner/rng", "run/step"]


def test_a_part_comes_back_as_it_was_joined():
    part = OUTER.part("runner").part("planner")
    assert part.values == INNER.values
    assert part.array("w") is INNER.arrays["w"]
    assert OUTER.part("runner/planner").values == INNER.values


def test_a_part_is_not_taken_for_another_whose_name_begins_alike():
    assert OUTER.part("run").values == {"step": 3}


def test_a_part_that_remembered_nothing_is_empty():
    empty = OUTER.part("runner").part("player")
    assert not empty.arrays and not empty.values


def test_a_missing_name_is_told():
    with pytest.raises(DataError, match="no value 'steps'"):
        OUTER.part("run").value("steps")
    with pytest.raises(DataError, match="no array 'w'"):
        OUTER.array("w")
