"""States that are joined and given back, part by part."""

import numpy as np
import pytest

from textenv.algos.storage.checkpoints.state import State, load_rng, save_rng
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


def test_generators_go_on_from_where_they_were():
    rng, other = np.random.default_rng(1), np.random.default_rng(2)
    rng.random(5)
    state = save_rng(rng)
    expected = rng.random(4).tolist()
    load_rng(other, state)
    assert other.random(4).tolist() == expected


@pytest.mark.parametrize("state", [{}, None, 3, {"bit_generator": "MT19937"}, {"state": {}}])
def test_what_is_no_state_of_a_generator(state):
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match="not the state of a random generator"):
        load_rng(rng, state)
