"""Rollout files that somebody else made: what is refused, by name, and nothing by a traceback."""

from __future__ import annotations

import copy
import gzip
import json
import resource
import time

import numpy as np
import pytest

from textenv.algos import Buffer, Trajectory, load_rollout
from textenv.algos.storage import format_json
from textenv.algos.storage.checks import LARGEST_LINE, check_rollout
from textenv.algos.storage.codec import decode
from textenv.errors import DataError

HUGE = 10**400
DEEP = "[" * 100_000 + "]" * 100_000
ROW = {
    "observations": ["1+1=", "1+1=2"],
    "actions": ["2", "3"],
    "rewards": [0.0, 1.0],
    "infos": [{}, {}],
    "reset_info": {},
    "terminated": True,
    "truncated": False,
    "prompt": "1+1=",
    "prompt_ids": [5, 6],
    "token_ids": [7, 8, 9],
    "token_mask": [1, 0, 1],
    "token_logprobs": [-0.5, 0.0, -0.25],
    "token_entropies": [0.5, 0, 0.5],
    "token_weights": [1.0, 0.0, 1.0],
    "token_advantages": [0.5, 0.0, -1.0],
    "support": [None, [1, 2], None],
    "values": [0.5, 0.25],
    "group_id": 0,
    "temperature": 1.0,
}


def write(path, row, source=None):
    head = {"format": "textenv.rollout", "schema_version": 3, "source": source, "layout": {}}
    path.write_text(json.dumps(head | {"trajectories": [row]}))
    return path


def array(dtype="float32", shape=(2,), data=(1.0, 2.0)):
    return {"dtype": dtype, "shape": list(shape), "data": data}


def test_the_row_is_right(tmp_path, schema):
    [trajectory] = load_rollout(write(tmp_path / "r.json", ROW))
    assert trajectory.token_ids == [7, 8, 9] and trajectory.total_reward == 1
    assert is_valid(schema, ROW)


WRONG = [
    *[("rewards", value) for value in (["a", 1], [None, 1], [[1], 1], [True, 1], 5)],
    *[("rewards", value) for value in ({"a": 1}, "ab", None)],
    *[("token_mask", value) for value in ([7, 0, 1], [True, 0, 1], [-1, 0, 1], [0.5, 0, 1])],
    *[("token_ids", value) for value in ([1.5, 2, 3], ["a", 2, 3], [None, 2, 3])],
    *[("token_logprobs", value) for value in (["a", 0, 0], [None, 0, 0])],
    *[(name, value) for name in ("group_id", "seed") for value in ([1], "1", 1.5, True, {})],
    *[("parent", -1), ("branch_at", -1), ("env_index", -1), ("temperature", "1"), ("shaping", [])],
    *[("terminated", 1), ("truncated", "no"), ("completion_truncated", 0), ("prompt", 5)],
    *[("infos", [1, {}]), ("infos", {}), ("reset_info", []), ("reset_info", None)],
    *[("support", 5), ("values", "ab"), ("observations", 5), ("actions", None)],
    *[("observations", array(dtype)) for dtype in ("O", "V8", "i8,i8", "M8[s]", "float128", 5)],
    *[("observations", array(shape=shape)) for shape in ((-1,), (1.5,), ("2",))],
]  # fmt: skip
LONGER = [  # right by the schema, which does not count
    *[("rewards", [0.0, 1.0, 5.0]), ("rewards", [0.0]), ("infos", [{}]), ("values", [0.5])],
    *[("observations", ["1+1="]), ("actions", ["2", "3", "4"])],
    *[("token_logprobs", [-0.5]), ("token_logprobs", None), ("token_mask", None)],
    *[("token_mask", [1, 1, 1, 1]), ("token_weights", [1.0]), ("token_advantages", [])],
    *[("support", [None]), ("token_entropies", [0.5] * 4), ("prompt_ids", None), ("branch_at", 4)],
    *[("token_ids", [-1, 2, 3]), ("prompt_ids", [2**31, 1]), ("support", [[-1], None, None])],
    *[("rewards", [HUGE, 1]), ("token_logprobs", [HUGE, 0, 0])],
    *[("group_id", HUGE), ("seed", 2**64), ("observations", array("U3"))],
    ("observations", array("int64", data=[1.5, 2.5])),
    ("observations", array("uint8", data=[1, 300])),
    ("observations", array("uint64", data=[1, -300])),
    ("observations", array("bool", data=[1, 0])),
    ("observations", array("float32", data=["inf", "nan"])),
    ("observations", array("float32", data=[1e39, 1])),
    ("observations", array("float32", data=[None, 1])),
    ("observations", array("float64", data=[HUGE, 1])),
    ("observations", array("<f4", data=[[1.0], [1.0, 2.0]])),
    ("observations", array(shape=(10**9, 0), data=[])),
    ("observations", array("<U500000000", data=["a", "b"])),
    ("observations", array("<U99999999999", data=["a", "b"])),
    ("final_observation", {"dtype": "float32", "value": "inf"}),
    ("final_observation", {"dtype": "int8", "value": 1000}),
    ("final_observation", {"dtype": "int8", "value": [1]}),
    ("final_observation", {"__tuple__": 5}),
    ("final_observation", {"__dict__": 5}),
]


def is_valid(schema, row):
    jsonschema = pytest.importorskip("jsonschema")
    rows = {"$ref": "#/$defs/trajectory", "$defs": schema["$defs"]}
    return jsonschema.Draft202012Validator(rows).is_valid(row)


@pytest.mark.parametrize(("name", "value"), WRONG + LONGER)
def test_what_is_wrong_is_refused_and_named(tmp_path, name, value):
    row = copy.deepcopy(ROW) | {name: value}
    if value is None and name in ("token_logprobs", "token_mask", "prompt_ids"):
        del row[name]
    with pytest.raises(DataError, match=r"r\.json, trajectory 0: "):
        load_rollout(write(tmp_path / "r.json", row))


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_the_schema_says_the_same(schema, name, value):
    """By an independent reader of the schema, jsonschema."""
    assert not is_valid(schema, ROW | {name: value})


@pytest.mark.parametrize("name", sorted(ROW))
def test_each_field_with_each_kind_of_value(tmp_path, name, schema):
    """Nothing but a DataError; and what is accepted is valid by the schema."""
    values = [None, 5, -5, 1.5, HUGE, "text", True, [], [[]], {}, [1], [None] * 3, {"a": 1}]
    values += [{"__tuple__": [1]}, {"dtype": 1, "shape": 2, "data": 3}, [{}], [1e308] * 2]
    for value in values:
        path = write(tmp_path / "r.json", ROW | {name: value})
        try:
            load_rollout(path)
        except DataError as error:
            assert "r.json, trajectory 0" in str(error)
        else:
            null = value is None  # as if it were absent
            assert null or is_valid(schema, ROW | {name: value}), (name, value)


@pytest.mark.parametrize(
    "source",
    [
        *({"env_id": 5}, {"env_kwargs": [1]}, {"num_envs": "2"}, {"seed": HUGE}, {"gamma": "a"}),
        *({"observation_space": 5}, {"policy_hash": 5}, {"versions": []}, {"gamma": HUGE}, 5, []),
    ],
)
def test_a_source_of_other_types_is_refused(tmp_path, source):
    with pytest.raises(DataError, match=r"r\.json: its source"):
        load_rollout(write(tmp_path / "r.json", ROW, source))


@pytest.mark.parametrize("place", ["infos", "observations", "file"])
def test_deep_nesting_is_refused(tmp_path, place):
    path = tmp_path / "r.json"
    if place == "file":
        path.write_text(DEEP)
    else:
        write(path, ROW | {place: "HERE"})
        path.write_text(path.read_text().replace('"HERE"', DEEP))
    with pytest.raises(DataError, match=r"r\.json"):
        load_rollout(path)


def nested(levels: int):
    """So many lists in each other."""
    return json.loads("[" * levels + "]" * levels)


def test_the_depth_does_not_depend_on_python(tmp_path):
    """Infos are a list of objects: two of the levels."""
    path = tmp_path / "r.json"
    kept = load_rollout(write(path, ROW | {"infos": [{"a": nested(98)}, {}]}))
    assert kept.trajectories[0].infos[0] == {"a": nested(98)}
    with pytest.raises(DataError, match=r"r\.json, trajectory 0: .*deeper than 100 levels"):
        load_rollout(write(path, ROW | {"infos": [{"a": nested(99)}, {}]}))


def test_a_deep_info_is_written_as_text(tmp_path):
    trajectory = load_rollout(write(tmp_path / "r.json", ROW)).trajectories[0]
    trajectory.infos[0] = {"a": nested(99)}
    Buffer([trajectory]).save(tmp_path / "s.json")
    info = load_rollout(tmp_path / "s.json").trajectories[0].infos[0]
    text = json.dumps(info)
    assert text.count("[") == 98 + 1 and "<[]>" in text


def test_an_infinity_by_another_name_is_refused(tmp_path):
    for name, text in (("rewards", "[0.0, 1e999]"), ("infos", '[{"a": 1e999}, {}]')):
        path = write(tmp_path / "r.json", ROW | {name: "HERE"})
        path.write_text(path.read_text().replace('"HERE"', text))
        with pytest.raises(DataError, match="trajectory 0"):
            load_rollout(path)


def test_arrays_as_they_are_written_come_back():
    """Values at the ends of each type's range."""
    for dtype in ("int8", "uint8", "int64", "uint64"):
        ends = [int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)]
        assert decode(array(dtype, data=ends)).tolist() == ends
    assert decode(array("<U4", data=["", "abcd"])).tolist() == ["", "abcd"]
    assert decode(array("bool", data=[True, False])).tolist() == [True, False]
    assert decode({"dtype": "float32", "value": 1}) == np.float32(1)
    assert decode(array("float64", (0, 3), [])).shape == (0, 3)


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    """A line of 600 MB, and a GB of short lines, each packed to a megabyte or less."""
    head = json.dumps({"format": "textenv.rollout", "schema_version": 3}).encode() + b"\n"
    long, many = tmp_path / "long.jsonl.gz", tmp_path / "many.jsonl.gz"
    with gzip.open(long, "wb", compresslevel=1) as file:
        file.write(head)
        for _ in range(600):
            file.write(b" " * 10**6)
    monkeypatch.setattr(format_json, "LARGEST_LINE", 2**24)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(DataError, match=f"a line is longer than {2**24} bytes"):
        load_rollout(long)
    monkeypatch.setattr(format_json, "_LEAST_LIMIT", 2**22)
    with gzip.open(many, "wb") as file:
        file.write(head)
        for _ in range(2000):
            file.write(b"5" + b" " * 10_000 + b"\n")
    with pytest.raises(DataError, match="it unpacks to more than 300 times its size"):
        load_rollout(many)
    assert time.monotonic() - began < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # kB
    assert LARGEST_LINE == 2**29


def test_a_trajectory_too_large_for_a_line_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(format_json, "LARGEST_LINE", 500)
    rollout = Buffer([Trajectory(["x" * 600], ["a"], [0.0], [{}])])
    with pytest.raises(DataError, match="save it as Parquet"):
        rollout.save(tmp_path / "r.jsonl.gz")
    assert not list(tmp_path.iterdir())
    assert load_rollout(rollout.save(tmp_path / "r.json")) == rollout


def test_parquet_is_checked_too(tmp_path):
    pytest.importorskip("pyarrow")
    for changes in ({"token_mask": [1, 7]}, {"rewards": [0.0, 1.0]}, {"token_logprobs": [0.0]}):
        right = {"rewards": [0.0], "token_mask": [1, 0], "token_logprobs": [0.0, 0.0]}
        trajectory = Trajectory(
            **({"observations": ["a"], "actions": ["b"], "infos": [{}]} | right | changes),
            prompt_ids=[1],
            token_ids=[2, 3],
        )
        path = Buffer([trajectory]).save(tmp_path / "r.parquet")
        with pytest.raises(DataError, match=r"r\.parquet, trajectory 0: "):
            load_rollout(path)


def test_what_is_in_memory_can_be_checked_by_itself():
    check_rollout(Buffer([Trajectory()]), "here")
    with pytest.raises(
        DataError, match="here, trajectory 1: rewards must be finite numbers, got NaN"
    ):
        check_rollout(Buffer([Trajectory(), Trajectory(rewards=[HUGE])]), "here")
