"""Files of rollouts that are refused, and what a refusal leaves."""

from __future__ import annotations

import gzip
import json
import math

import numpy as np
import pytest

from tests.algos.storage.shared import FILES, NEEDS, control_rollout, structured_rollout
from textenv.algos import Buffer, Trajectory, load_rollout
from textenv.algos.storage.files import save_rollout


@pytest.mark.parametrize("in_folder", [True, False])
@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("rewards", [math.nan], "rewards: nan"),
        ("rewards", [math.inf], "rewards: inf"),
        ("observations", [np.array([1.0, math.nan])], "observations: an array holds NaN"),
        ("observations", [{"a": np.array([math.inf], np.float32)}], "observations: an array"),
        ("final_observation", np.array([math.nan]), "final_observation"),
        ("last_value", math.nan, "last_value"),
        ("actions", [object()], "actions: object is not JSON"),
        ("observations", [{1: "a key that JSON would make text"}], "observations: key 1 is not"),
    ],
)
def test_what_json_cannot_hold_is_refused(tmp_path, ending, in_folder, field, value, words):
    good = structured_rollout()
    bad = Trajectory(**{"observations": [0], "actions": [0], "rewards": [0.0], field: value})
    rollout = Buffer([good.trajectories[0], bad], good.source)
    with pytest.raises(ValueError, match=f"trajectory 1 cannot be written: {words}"):
        if in_folder:
            save_rollout(rollout, tmp_path / "new", ending)
        else:
            rollout.save(tmp_path / f"new.{ending}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FILES)
def test_a_refused_rollout_leaves_the_old_file(tmp_path, name):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    path = structured_rollout().save(tmp_path / f"r.{name}")
    with pytest.raises(ValueError):
        Buffer([Trajectory(rewards=[math.nan])]).save(path)
    assert load_rollout(path) == structured_rollout()
    Buffer().save(path)
    assert len(load_rollout(path)) == 0
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_full_disk_leaves_nothing(tmp_path, ending, monkeypatch):
    from textenv.algos.storage import files as rollout_files

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rollout_files.os, "replace", full)
    for path in (tmp_path / f"r.{ending}", tmp_path):
        with pytest.raises(OSError, match="No space"):
            save_rollout(structured_rollout(), path, ending)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0, 0.05, 0.5, 0.95])
def test_a_file_that_is_cut_off(tmp_path, name, share):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    path = control_rollout().save(tmp_path / f"r.{name}")
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=rf"r\.{name} is cut off or not a rollout"):
        load_rollout(path)


def test_a_file_with_a_broken_byte(tmp_path):
    path = control_rollout().save(tmp_path / "r.jsonl.gz")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"r\.jsonl\.gz is cut off or not a rollout"):
        load_rollout(path)


def test_a_file_that_misses_lines(tmp_path):
    path = control_rollout().save(tmp_path / "r.jsonl.gz")
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    path.write_bytes(gzip.compress(b"".join(lines[:-1])))
    with pytest.raises(ValueError, match=f"it holds {len(lines) - 2} traj.* of {len(lines) - 1}"):
        load_rollout(path)


HEADER = {"format": "textenv.rollout", "schema_version": 3}


ARRAY = {"dtype": "float32", "shape": [2, 2], "data": [1, 2, 3]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({**HEADER, "schema_version": 1, "trajectories": []}, "schema version 1.*reads version 3"),
        ({"trajectories": []}, "not a rollout of textenv"),
        ([1, 2], "not a rollout of textenv"),
        ({**HEADER, "trajectories": [{}, {"colour": 1}]}, r"trajectory 1: unknown keys \['colour'"),
        ({**HEADER, "trajectories": [3]}, "trajectory 0: expected an object, got 3"),
        ({**HEADER, "trajectories": [{"rewards": 3}]}, "trajectory 0: rewards must be a list"),
        ({**HEADER, "trajectories": [{"actions": ARRAY}]}, "trajectory 0: cannot reshape"),
        (
            {**HEADER, "trajectories": [{"actions": {**ARRAY, "dtype": "O"}}]},
            "trajectory 0: dtype 'O' is not one of",
        ),
        (
            {**HEADER, "trajectories": [{"actions": {"a": [1], "b": [1, 2]}}]},
            "trajectory 0: zip",
        ),
        ({**HEADER, "source": {"a": 1}, "trajectories": []}, "its source must be an object of"),
        ({**HEADER, "trajectories": [{"rewards": [math.nan]}]}, "NaN is not JSON"),
    ],
)
def test_other_files_are_refused(tmp_path, content, words):
    path = tmp_path / "r.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"r\.json.*{words}"):
        load_rollout(path)
    if isinstance(content, dict):
        lines = [{k: v for k, v in content.items() if k != "trajectories"}]
        packed = tmp_path / "r.jsonl.gz"
        text = "".join(json.dumps(row) + "\n" for row in lines + content["trajectories"])
        packed.write_bytes(gzip.compress(text.encode()))
        with pytest.raises(ValueError, match=words):
            load_rollout(packed)


def test_a_file_without_trajectories(tmp_path):
    path = tmp_path / "r.json"
    path.write_text(json.dumps(HEADER))
    with pytest.raises(ValueError, match=r"r\.json: expected a list of trajectories, got None"):
        load_rollout(path)
