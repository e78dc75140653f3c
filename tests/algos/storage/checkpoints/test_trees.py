"""Nested values that become a state, and come back."""

import json
from collections import deque

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from textenv.algos.storage.checkpoints.state import State
from textenv.algos.storage.checkpoints.trees import from_state, to_state
from textenv.errors import DataError

NUMBERS = st.sampled_from(["?", "i1", "i4", "i8", "u2", "u8", "f2", "f4", "f8", "U3"]).map(np.dtype)
LEAVES = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    hnp.arrays(NUMBERS, hnp.array_shapes(min_dims=0, min_side=0)),
    NUMBERS.flatmap(lambda dtype: hnp.arrays(dtype, ())).map(lambda array: array[()]),
)
KEYS = st.one_of(
    st.text(), st.sampled_from(["__array__", "a/b", "a"]), st.integers(), st.booleans()
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.lists(inner).map(lambda items: deque(items, maxlen=9)),
        st.dictionaries(KEYS, inner),
    ),
    max_leaves=12,
)


def alike(a, b):
    """Whether two trees are of the same types, and equal to the bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        pairs = list(zip(a.items(), b.items()))
        return len(a) == len(b) and all(alike(x, y) and alike(v, w) for (x, v), (y, w) in pairs)
    if isinstance(a, deque) and a.maxlen != b.maxlen:
        return False
    if isinstance(a, (list, tuple, deque)):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, (np.ndarray, np.generic)):
        if a.dtype.kind == "U":
            return a.shape == b.shape and a.tolist() == b.tolist()
        return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    return repr(a) == repr(b)


def through_a_file(state):
    """The state as it comes back from JSON."""
    return State(state.arrays, json.loads(json.dumps(dict(state.values))))


@given(TREES)
@example(np.array(0xFE01, np.uint16).view(np.float16)[()])  # a NaN that is not NumPy's own
def test_a_tree_comes_back_in_the_same_types_and_to_the_bit(tree):
    assert alike(from_state(through_a_file(to_state(tree))), tree)


def test_arrays_are_copied_and_have_names_that_say_where_they_were():
    tree = {"a": [1, np.zeros(2)], "a/1": np.ones(1)}
    state = to_state(tree)
    tree["a"][1][:] = 5
    assert list(state.arrays) == ["tree/a/1", "tree/a/1~"]
    assert state.array("tree/a/1").tolist() == [0, 0]


@pytest.mark.parametrize("value", [object(), {1, 2}, np.array([None]), 1j, np.zeros(1, "c8")])
def test_what_no_checkpoint_can_hold_is_told_with_its_place(value):
    with pytest.raises(DataError, match=r"^tree/a/0: .* cannot be part of a checkpoint"):
        to_state({"a": (value,)})


@pytest.mark.parametrize(
    "value",
    [
        *({"__array__": "none"}, {"__array__": []}, {"__number__": ["O", 1]}, {"__number__": [1]}),
        *({"__number__": ["f4", "3"]}, {"__texts__": [[3], ["a"]]}, {"__other__": 1}),
        *({"__dict__": [1]}, {"__dict__": [[[], 1]]}, {"__deque__": [-1, []]}),
    ],
)
def test_what_is_no_tree_is_told(value):
    with pytest.raises(DataError, match="not a state of nested values"):
        from_state(State({}, {"tree": [value]}))
