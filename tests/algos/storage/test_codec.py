"""Any value as JSON and back, to the type and to the bit."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from textenv.algos import Buffer, Trajectory, load_rollout
from textenv.algos.storage.codec import (
    BOOLS,
    COLUMNS,
    FLOAT_LISTS,
    FLOATS,
    INT_LISTS,
    INTS,
    EncodedOnce,
    decode,
    encode,
    encode_rollout,
    fill,
    outline,
    pack,
    unpack,
)


def exact(value):
    """What two values share only where they are the same in type, and arrays in every byte."""
    if isinstance(value, np.ndarray):
        return "array", str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [exact(item) for item in value]
    if isinstance(value, dict):
        return "dict", sorted((key, exact(item)) for key, item in value.items())
    return type(value).__name__, repr(value)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_float_comes_back_to_the_bit(tmp_path, dtype):
    rng = np.random.default_rng(0)
    bits = {2: np.uint16, 4: np.uint32, 8: np.uint64}[np.dtype(dtype).itemsize]
    drawn = rng.integers(np.iinfo(bits).max, size=60_000, dtype=bits, endpoint=True).view(dtype)
    drawn = drawn[np.isfinite(drawn)]
    steps = [*drawn[:3000].reshape(-1, 3), np.array([-0.0, np.finfo(dtype).max, 0], dtype)]
    read = load_rollout(Buffer([Trajectory(observations=steps)]).save(tmp_path / "r.json"))
    assert exact(read.trajectories[0].observations) == exact(steps)
    again = decode(json.loads(json.dumps(encode(drawn))))
    assert again.dtype == dtype and again.tobytes() == drawn.tobytes()


def test_a_float_is_as_short_as_can_be():
    assert json.dumps(encode(np.array([0.1, 1e10, 1 / 3], np.float32))["data"]) == (
        "[0.1, 10000000000.0, 0.33333334]"
    )


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
)
arrays = hnp.arrays(
    st.sampled_from(["bool", "int8", "uint64", "int64", "float16", "float32", "float64", "<U3"]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
    elements=None,
    fill=st.nothing(),
).filter(lambda a: a.dtype.kind != "f" or np.isfinite(a).all())
keys = st.text(max_size=3) | st.sampled_from(["dtype", "shape", "data", "value", "__tuple__"])
values = st.recursive(
    scalars | arrays | arrays.map(lambda a: a.reshape(-1)[0] if a.size else a),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(values)
def test_any_value_comes_back(value):
    assert exact(decode(json.loads(json.dumps(encode(value))))) == exact(value)


@settings(max_examples=100, deadline=None)
@given(st.lists(values, max_size=4))
def test_any_column_comes_back(items):
    assert exact(unpack(pack(items))) == exact(items)


@settings(max_examples=100, deadline=None)
@given(st.lists(values, max_size=4))
def test_an_outline_and_the_data_are_the_column(items):
    def data(column):
        """As another format gives it back: fields in order, arrays of another type."""
        if isinstance(column, (dict, tuple)):
            pairs = column.items() if isinstance(column, dict) else enumerate(column)
            return {
                key if isinstance(column, dict) else str(key): data(part) for key, part in pairs
            }
        return column

    column = pack(items)
    shape = json.loads(json.dumps(outline(column)))
    assert exact(unpack(fill(shape, data(column)))) == exact(items)


def test_what_packs_and_what_does_not():
    assert pack([np.zeros(3), np.ones(3)]).tolist() == [[0, 0, 0], [1, 1, 1]]
    assert pack([np.int64(3), np.int64(4)]).dtype == np.int64
    for apart in (
        [np.zeros(3), np.zeros(2)],
        [np.zeros(3), np.zeros(3, np.float32)],
        [np.array(1.0), np.array(2.0)],  # as numbers they would come back
        [np.int64(3), np.int32(3)],
        [1, 2],
        ["a", "b"],
        [{"a": 1}, {"b": 1}],
        [{"dtype": 1, "shape": 2, "data": 3}],
        [(1, 2), (1,)],
        [()],
    ):
        assert pack(apart) is not apart and type(pack(apart)) is list
    nested = pack([{"a": (np.float32(1), "x")}, {"a": (np.float32(2), "y")}])
    assert nested["a"][0].tolist() == [1, 2] and nested["a"][1] == ["x", "y"]


def test_every_field_is_written_as_what_it_is_annotated():
    written = {
        **dict.fromkeys(FLOAT_LISTS, "list[float]"),
        **dict.fromkeys(INT_LISTS, "list[int]"),
        **dict.fromkeys(FLOATS, "float"),
        **dict.fromkeys(INTS, "int"),
        **dict.fromkeys(BOOLS, "bool"),
        **dict.fromkeys(COLUMNS, "list[Any]"),
        "prompt": "str",
    }
    others = {
        "infos": "list[dict[str, Any]]",
        "reset_info": "dict[str, Any]",
        "final_observation": "Any",
        "support": "list[Any]",
    }
    annotated = {
        name: kind.removesuffix(" | None") for name, kind in Trajectory.__annotations__.items()
    }
    assert annotated == {**written, **others}


def test_lists_are_encoded_once_as_long_as_they_are_asked_for(monkeypatch):
    from textenv.algos.storage import codec

    one, other = ([Trajectory(rewards=[reward], seed=3)] for reward in (1.0, 2.0))
    rows = {id(group): encode_rollout(Buffer(group)) for group in (one, other)}
    encoded = []
    monkeypatch.setattr(
        codec, "encode_rollout", lambda buffer: encoded.append(1) or encode_rollout(buffer)
    )
    encode_all = EncodedOnce()
    for groups, expected in [([one], 1), ([one, other, one], 2), ([other], 2), ([other, one], 3)]:
        assert encode_all(groups) == [rows[id(group)] for group in groups]
        assert len(encoded) == expected
