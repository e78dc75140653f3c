"""What is kept beside a rollout: it comes back as it was, and nothing broken is taken for it."""

import gzip
import json
import math

import pytest

from textenv.algos.storage.inspection import (
    Inspected,
    Inspection,
    inspection_path,
    load_inspection,
    save_inspection,
)
from textenv.errors import DataError, StorageError

ROWS = [
    Inspected(
        ["4", "</script>\x1b\u202e", "<eos>"], 0.5, None, [1.0, 0.25, 1.0], {"answer": [42, None]}
    ),
    Inspected([], None, [], [], None),
    Inspected(),
    Inspected(["\ud800"], None, [-1.5]),
]


@pytest.fixture
def rollout(tmp_path):
    """A rollout's file, which need not be there."""
    return tmp_path / "rollouts" / "rollout_3_20260101_000000.json"


def write(rollout, *lines):
    path = inspection_path(rollout)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))
    return path


def test_it_comes_back(rollout):
    assert load_inspection(rollout) is None
    path = inspection_path(rollout)
    save_inspection(Inspection(20, ROWS), path)
    assert load_inspection(rollout) == Inspection(20, ROWS)
    assert path.name == "rollout_3_20260101_000000.jsonl.gz"
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    # The rollout's own format does not change where its inspection lies.
    assert inspection_path(rollout.with_suffix(".jsonl.gz")) == path


def test_numbers_have_five_digits(rollout):
    row = Inspected(["a", "b"], 1 / 3, None, [2 / 3, 123456.0])
    save_inspection(Inspection(1, [row]), inspection_path(rollout))
    [found] = load_inspection(rollout).rows
    assert found.advantage == 0.33333 and found.token_ratios == [0.66667, 123460.0]


def test_numbers_that_are_not_finite_come_back_as_they_were(rollout):
    """JSON has no NaN: they are written by name, and a token that is spelled so stays a text."""
    values = [math.nan, math.inf, -math.inf, 1e308]
    names = ["NaN", "Infinity", "-Infinity", "1"]
    rows = [Inspected(names, None, values, values), *map(Inspected, [None] * 4, values)]
    save_inspection(Inspection(1, rows), inspection_path(rollout))
    found = load_inspection(rollout).rows
    assert found[0].token_texts == names
    alone = [row.advantage for row in found[1:]]
    for kept in (found[0].token_advantages, found[0].token_ratios, alone):
        assert repr(kept) == repr(values)
    text = gzip.decompress(inspection_path(rollout).read_bytes()).decode()
    assert '["NaN", "Infinity", "-Infinity", 1e+308]' in text
    for line in text.splitlines():
        json.loads(line, parse_constant=pytest.fail)  # strict JSON


def test_other_objects_in_answers_are_text(rollout):
    save_inspection(Inspection(1, [Inspected(expected={1})]), inspection_path(rollout))
    assert load_inspection(rollout).rows[0].expected == "{1}"


HEAD = {"format": "textenv.inspection", "version": 1, "step": 1, "num_trajectories": 1}


@pytest.mark.parametrize(
    ("head", "row", "said"),
    [
        ({"format": "x"}, {}, "no inspection of textenv"),
        ({"version": 2}, {}, "version 2; this textenv reads 1"),
        ({"num_trajectories": 2}, {}, "holds 1 trajectories of 2"),
        ({"step": "1"}, {}, "cut off"),
        ({}, [], "trajectory 0: expected an object"),
        ({}, {"more": 1}, "trajectory 0: expected an object"),
        ({}, {"token_texts": "ab"}, "token_texts must be a list of texts"),
        ({}, {"token_texts": [1]}, "token_texts must be a list of texts"),
        ({}, {"token_ratios": [math.nan]}, "token_ratios must be a list of numbers"),
        ({}, {"token_advantages": [True]}, "token_advantages must be a list of numbers"),
        ({}, {"advantage": "1"}, "advantage must be a number"),
        ({}, {"advantage": "inf"}, "advantage must be a number"),
        ({}, {"advantage": 10**400}, "too large"),
        ({}, {"token_texts": ["a"], "token_ratios": [1, 1]}, r"lists have \[1, 2\] items"),
    ],
)
def test_a_broken_one_is_refused_by_its_place(rollout, head, row, said):
    path = write(rollout, json.dumps(HEAD | head), json.dumps(row))
    with pytest.raises(DataError, match=said) as found:
        load_inspection(rollout)
    assert str(path) in str(found.value)


@pytest.mark.parametrize("keep", [0, 5, 40])
def test_one_that_is_cut_off_is_refused(rollout, keep):
    save_inspection(Inspection(20, ROWS), inspection_path(rollout))
    path = inspection_path(rollout)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="cut off"):
        load_inspection(rollout)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "inspection").write_text("")
    path = inspection_path(tmp_path / "rollouts" / "rollout_0.json")
    with pytest.raises(StorageError, match=r"rollout_0.jsonl.gz cannot be written to"):
        save_inspection(Inspection(1, []), path)
