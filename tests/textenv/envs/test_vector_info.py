"""Infos of many lanes, against those that Gymnasium's own vector environments build."""

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textenv.envs.vector_info import Some, from_columns, merge, put, rows, taken, where

LANES = 5
VALUES = {
    "flag": st.booleans(),
    "count": st.integers(-9, 9),
    "part": st.floats(-1, 1),
    "text": st.text(max_size=3),
}
inner = st.fixed_dictionaries({}, optional=VALUES)
# One info for each lane. It may lack some keys, but always contains an inner info.
info = st.fixed_dictionaries({"inner": inner}, optional=VALUES)
infos_of_all = st.lists(info, min_size=LANES, max_size=LANES)
some_lanes = st.sets(st.integers(0, LANES - 1), min_size=1).map(sorted)


def gymnasiums(infos, lanes):
    vector = gym.vector.VectorEnv()
    vector.num_envs, built = LANES, {}
    for lane in lanes:
        built = vector._add_info(built, infos[lane], lane)
    return built


def plain(info):
    """For each key which lanes have it, the type of the array, and the values of these lanes."""
    found = {}
    for key, values in info.items():
        if key.startswith("_"):
            continue
        has = info[f"_{key}"]
        assert has.shape == (LANES,) and has.dtype == bool
        if isinstance(values, dict):
            found[key] = has.tolist(), plain(values)
        else:
            assert values.shape == (LANES,)
            found[key] = has.tolist(), str(values.dtype), values[has].tolist()
    assert len(info) == 2 * len(found)
    return found


@given(infos_of_all, some_lanes)
def test_infos_as_columns_are_gymnasiums_infos(infos, lanes):
    ours = from_columns({"all": [infos[lane] for lane in lanes]}, lanes, LANES)
    theirs = gymnasiums([{"all": info} for info in infos], lanes)
    assert plain(ours) == plain(theirs)


@given(infos_of_all, some_lanes, st.data())
def test_infos_of_different_lanes_are_merged_as_if_made_at_once(infos, lanes, data):
    first = sorted(data.draw(st.sets(st.sampled_from(lanes), max_size=len(lanes) - 1)))
    rest = [lane for lane in lanes if lane not in first]
    made = [
        from_columns({"all": [infos[lane] for lane in part]}, part, LANES)
        for part in (first, rest, lanes)
        if part
    ]
    *parts, whole = made
    assert plain(merge(parts[0], parts[1]) if first else parts[0]) == plain(whole)


@given(infos_of_all, some_lanes)
def test_some_rows_of_columns_are_the_columns_of_some_lanes(infos, lanes):
    columns = {"all": infos, "number": list(range(LANES)), "inner": {"few": Some([*"abcd", None])}}
    picked = rows(columns, lanes)
    assert picked["all"] == [infos[lane] for lane in lanes] and picked["number"] == lanes
    assert type(picked["inner"]["few"]) is Some
    assert picked["inner"]["few"] == [[*"abcd", None][lane] for lane in lanes]


def test_none_in_a_column_of_some_is_a_lane_without_the_key():
    info = from_columns({"a": Some([None, True]), "b": Some([None, None])}, [1, 3], LANES)
    assert list(info) == ["a", "_a"]
    assert info["_a"].tolist() == [False, False, False, True, False]
    assert info["a"].tolist() == info["_a"].tolist() and info["a"].dtype == bool


@pytest.mark.parametrize("lanes", [[0], [1, 4], list(range(LANES))])
def test_values_of_lanes_are_taken_put_and_found(lanes):
    values = list("abcde")
    assert taken(values, lanes) == [values[lane] for lane in lanes]
    put(values, lanes, [letter.upper() for letter in taken(values, lanes)])
    assert [i for i, letter in enumerate(values) if letter.isupper()] == lanes
    assert np.arange(LANES)[where(lanes, LANES)].tolist() == lanes


def test_lists_stay_lists_in_each_lane():
    """Also if they are of one length, which NumPy would take for a matrix."""
    for values in ([[1, 2], [3, 4]], [[], [5]], [[{"a": 1}], [{"a": 2}]]):
        built = from_columns({"messages": values}, [1, 3], LANES)
        assert built["messages"].dtype == object
        assert built["messages"].tolist() == [None, values[0], None, values[1], None]
        alike = gymnasiums({lane: {"messages": v} for lane, v in zip([1, 3], values)}, [1, 3])
        assert built["messages"].tolist() == alike["messages"].tolist()
    some = from_columns({"messages": Some([[1], None])}, [0, 1], LANES)
    assert some["_messages"].tolist() == [True, *[False] * 4]
