"""Checkpoints on the disk: what comes back, what is kept, and what is refused."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest

from textenv.algos.storage.checkpoints import store
from textenv.algos.storage.checkpoints.state import State
from textenv.algos.storage.checkpoints.store import (
    checkpoints,
    newest,
    read_checkpoint,
    read_manifest,
    step_of,
    write_checkpoint,
)
from textenv.errors import DataError, MissingFileError, StorageError

ARRAYS = {
    "model/weight": np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32),
    "statistics": np.array([math.pi, -0.0, math.inf, 5e-324]),
    "steps": np.array(7, np.int64),
    "none": np.zeros((0, 3), np.float16),
    "flags": np.array([True, False]),
    "bits": np.array([0x7FC1, 0x8000], np.uint16),
    "turned": np.arange(6, dtype=np.int32).reshape(2, 3).T,
    "big-endian": np.arange(3, dtype=">i8"),
}
VALUES = {
    "rng": {"bit_generator": "PCG64", "state": {"state": 2**127 + 1, "inc": 2**64 + 3}},
    "seconds": 0.1 + 0.2,
    "least": 5e-324,
    "best": -math.inf,
    "text": "ünï\u2028\U0001f600 \ud800 \x00",
    "nested": [None, True, [1.5, "x"]],
}
CONFIG = {"max_steps": 4, "beta": 0.1, "stop": ["a"], "grpo": {"seed": 2**62}}


def write(folder, step=20, state=None, **more):
    state = State(ARRAYS, VALUES) if state is None else state
    return write_checkpoint(folder, step, state, CONFIG, **more)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_everything_comes_back_to_the_last_bit(tmp_path):
    path = write(tmp_path / "checkpoints")
    found = read_checkpoint(path)
    assert (path.name, found.path) == ("step-00000020", path)
    assert found.state.values == VALUES
    assert found.state.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        back = found.state.arrays[name]
        assert (back.dtype.name, back.shape) == (array.dtype.name, array.shape)
        assert back.tobytes() == array.astype(back.dtype).tobytes()
    assert (found.manifest.step, found.manifest.config) == (20, CONFIG)
    assert "numpy" in found.manifest.versions
    assert found.manifest.blas.keys() == {"name", "detail"}


def test_the_manifest_has_size_and_hash_of_each_file(tmp_path):
    path = write(tmp_path)
    assert names(path) == ["arrays.safetensors", "manifest.json", "state.json"]
    for name, facts in json.loads((path / "manifest.json").read_text())["files"].items():
        data = (path / name).read_bytes()
        assert facts == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_the_arrays_are_a_file_that_mlx_reads(tmp_path):
    mx = pytest.importorskip("mlx.core")
    arrays = {name: ARRAYS[name] for name in ("model/weight", "bits", "steps", "turned")}
    path = write(tmp_path, state=State(arrays))
    found = mx.load(str(path / "arrays.safetensors"))
    assert all(np.array_equal(np.array(found[name]), array) for name, array in arrays.items())


def test_more_than_a_chunk_is_written_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_CHUNK", 1000)
    array = np.random.default_rng(1).random(1234)
    path = write(tmp_path, state=State({"x": array}))
    assert np.array_equal(read_checkpoint(path).state.array("x"), array)


@pytest.mark.parametrize(
    ("state", "name"),
    [
        (State({"words": np.array(["a"])}), "words"),
        (State({"objects": np.array([None])}), "objects"),
        (State(values={"fine": 1, "count": np.int64(1)}), "count"),
    ],
)
def test_what_cannot_be_written_is_named_and_leaves_nothing(tmp_path, state, name):
    with pytest.raises(DataError, match=f"'{name}'"):
        write(tmp_path, state=state)
    assert names(tmp_path) == []


def test_the_newest_and_that_of_the_best_evaluation_stay(tmp_path):
    for step in (1, 2, 3, 10, 100_000_000):
        write(tmp_path, step, State(), keep=2, best_step=2)
    assert names(tmp_path) == ["step-00000002", "step-00000010", "step-100000000"]
    assert [step_of(path) for path in checkpoints(tmp_path)] == [2, 10, 100_000_000]
    write(tmp_path, 100_000_001, State(), keep=1, best_step=10)
    assert [step_of(path) for path in checkpoints(tmp_path)] == [10, 100_000_001]


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path):
    write(tmp_path, 4, State(values={"x": 1}))
    path = write(tmp_path, 4, State(values={"x": 2}))
    assert read_checkpoint(path).state.values == {"x": 2}
    assert names(tmp_path) == ["step-00000004"]


def test_the_newest_is_found_from_the_run_its_checkpoints_or_itself(tmp_path):
    folder = tmp_path / "checkpoints"
    first, second = write(folder, 1), write(folder, 2)
    assert newest(tmp_path) == newest(folder) == newest(second) == second
    assert newest(first) == first


def test_a_run_without_checkpoints_is_told(tmp_path):
    with pytest.raises(MissingFileError, match="has no checkpoint"):
        newest(tmp_path)
    with pytest.raises(MissingFileError, match="is not there"):
        newest(tmp_path / "no")


def test_what_a_killed_process_left_is_no_checkpoint_and_is_removed(tmp_path):
    (tmp_path / ".step-00000009.saving").mkdir()
    (tmp_path / ".step-00000009.saving" / "state.json").write_text("{")
    (tmp_path / "notes").mkdir()
    assert checkpoints(tmp_path) == []
    write(tmp_path, 10)
    assert names(tmp_path) == ["notes", "step-00000010"]


@pytest.mark.parametrize("call", ["rename", "fsync"])
def test_an_error_of_the_disk_leaves_the_earlier_ones_whole(tmp_path, monkeypatch, call):
    before = write(tmp_path, 1)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(StorageError, match=r"step 2 .*No space left on device"):
        write(tmp_path, 2)
    monkeypatch.undo()
    assert names(tmp_path) == ["step-00000001"]
    assert read_checkpoint(before).state.values == VALUES


@pytest.mark.parametrize("name", ["arrays.safetensors", "state.json", "manifest.json"])
def test_a_file_that_is_cut_at_any_1000th_byte_is_named(tmp_path, name):
    many = State({"x": np.arange(600.0)}, {"rows": list(range(700))})
    write_checkpoint(tmp_path, 3, many, {f"key{i}": i for i in range(100)})
    path = write_checkpoint(tmp_path, 4, many, {f"key{i}": i for i in range(100)})
    whole = (path / name).read_bytes()
    assert len(whole) > 2000
    for size in [*range(0, len(whole), 1000), len(whole) - 1]:
        (path / name).write_bytes(whole[:size])
        with pytest.raises(DataError) as caught:
            read_checkpoint(path)
        assert f"{path} is broken: {name} should be" in str(caught.value)
        assert f"name the checkpoint before it to go on from that: {tmp_path}" in str(caught.value)
    (path / name).write_bytes(whole)
    read_checkpoint(path)


@pytest.mark.parametrize("name", ["arrays.safetensors", "state.json", "manifest.json"])
def test_a_changed_byte_and_a_missing_file_are_named(tmp_path, name):
    path = write(tmp_path)
    whole = (path / name).read_bytes()
    for at in range(0, len(whole), 97):
        (path / name).write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(DataError, match=f"is broken: {name} .*there is no checkpoint before"):
            read_checkpoint(path)
    (path / name).unlink()
    with pytest.raises(DataError, match=f"is broken: {name} "):
        read_checkpoint(path)


def signed(path, **changes):
    """Write a manifest anew, with other content and the right hash of it."""
    facts = json.loads((path / "manifest.json").read_text())
    facts |= changes
    facts = {name: value for name, value in facts.items() if value is not None}
    facts.pop("sha256")
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    (path / "manifest.json").write_text(json.dumps({**facts, "sha256": digest}))


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "another"},
        {"format_version": 2},
        {"config": None},
        {"files": []},
        {"files": {"../outside": {"size": 0, "sha256": ""}}},
        {"files": {name: {"size": 0, "sha256": ""} for name in ("state.json", "/etc/passwd")}},
        {"files": {"state.json": {}, "arrays.safetensors": {}}},
        {
            "files": {
                n: {"size": "9" * 9, "sha256": ""} for n in ("state.json", "arrays.safetensors")
            }
        },
        {"step": 21},
        {"config": []},
        {"versions": ["numpy"]},
        {"versions": {"numpy": 1}},
        {"blas": {"name": "own"}},
        {"blas": None},
    ],
)
def test_a_manifest_of_another_kind_is_refused(tmp_path, changes):
    path = write(tmp_path)
    signed(path, **changes)
    with pytest.raises(DataError, match=r"is broken: manifest\.json"):
        read_manifest(path)


def test_a_file_that_lies_about_its_arrays_is_refused(tmp_path):
    path = write(tmp_path)
    header = json.dumps({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}).encode()
    data = struct.pack("<Q", len(header)) + header + bytes(4)
    (path / "arrays.safetensors").write_bytes(data)
    files = json.loads((path / "manifest.json").read_text())["files"]
    files["arrays.safetensors"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    signed(path, files=files)
    with pytest.raises(DataError, match=r"is broken: arrays\.safetensors should be safetensors"):
        read_checkpoint(path)


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from textenv.algos.storage.checkpoints import store
from textenv.algos.storage.checkpoints.state import State

folder, kills = Path(sys.argv[1]), 0
real = {name: getattr(os, name) for name in ("fsync", "rename", "open", "mkdir")}

def write(step):
    state = State({"x": np.full(3000, step)}, {"step": step})
    store.write_checkpoint(folder, step, state, {}, keep=1)

while True:
    write(1)
    child = os.fork()
    if not child:
        left = kills  # calls that it lives through
        def counted(name):
            def call(*args, **kwargs):
                global left
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
                return real[name](*args, **kwargs)
            return call
        for name in real:
            setattr(os, name, counted(name))
        write(2)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    found = store.read_checkpoint(store.newest(folder))  # never a broken one
    assert found.state.value("step") == found.manifest.step in (1, 2)
    assert (found.state.array("x") == found.manifest.step).all()
    if status == 0:
        break
    kills += 1
    for path in folder.iterdir():
        store.shutil.rmtree(path)
print(kills)
"""


def test_killed_at_any_call_of_a_write_the_newest_is_whole(tmp_path):
    """Before each call that makes, syncs or renames a file or a folder."""
    command = [sys.executable, "-c", KILLED, str(tmp_path / "checkpoints")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 8  # three files, the folder before and after, and its new name


def test_a_checkpoint_can_be_moved_to_another_folder(tmp_path):
    path = write(tmp_path / "a")
    shutil.move(path, tmp_path / "step-00000020")
    assert read_checkpoint(newest(tmp_path / "step-00000020")).state.values == VALUES


def test_links_are_no_checkpoints_and_what_they_lead_to_stays(tmp_path):
    elsewhere = write(tmp_path / "elsewhere", 1)
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in ("step-00000001", ".step-00000001.old", ".step-00000002.saving"):
        (folder / name).symlink_to(elsewhere)
    for step in (2, 3):
        write(folder, step, keep=1)
    assert [path.name for path in checkpoints(folder)] == ["step-00000003"]
    assert read_checkpoint(elsewhere).state.values == VALUES
