"""Rollouts that are written and read again: names, formats, errors."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.algos.storage.shared import KINDS, control_rollout, structured_rollout, text_rollout
from textenv.algos import Buffer, Trajectory, load_rollout
from textenv.algos.storage.files import load_rollouts, save_rollout


def strictly_equal(a, b):
    """As ==, and of the same types, arrays of the same dtypes and shapes."""
    if isinstance(a, np.ndarray):
        return type(b) is type(a) and a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, (list, tuple)):
        return type(b) is type(a) and len(a) == len(b) and all(map(strictly_equal, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(strictly_equal(a[k], b[k]) for k in a)
    return type(a) is type(b) and repr(a) == repr(b)


def assert_same(read, rollout):
    assert read == rollout and read.source == rollout.source
    assert len(read) == len(rollout)
    for ours, theirs in zip(read, rollout):
        assert strictly_equal(vars(ours), vars(theirs)), (vars(ours), vars(theirs))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_equals_what_was_written(tmp_path, kind, ending):
    rollout = KINDS[kind]()
    path = rollout.save(tmp_path / "new" / f"rollout.{ending}")
    read = load_rollout(path)
    assert_same(read, rollout)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    if len(rollout):
        read.trajectories[0].rewards[-1] += 1e-9
        assert read != rollout


@pytest.mark.filterwarnings("ignore:the model's tokenizer does not know")
def test_text_and_its_tokens(tiny, tmp_path, ending):
    rollout = text_rollout(tiny)
    read = load_rollout(rollout.save(tmp_path / f"rollout.{ending}"))
    assert_same(read, rollout)
    assert {t.prompt for t in read} == {'1+1="', "éß中🙂\n\t\\"}
    assert any(kept is not None for t in read for kept in t.support)
    assert read.source.env_id == "TextGen-v0" and len(read.source.policy_hash) == 64
    assert read.source.env_kwargs["reward_fn"].endswith("<lambda>>")


def test_alike_steps_are_one_array(tmp_path):
    path = control_rollout().save(tmp_path / "r.json")
    first = json.loads(path.read_text())["trajectories"][0]
    observations, actions = first["observations"], first["actions"]
    assert (observations["dtype"], observations["shape"][1:]) == ("float32", [4])
    assert np.array(observations["data"], np.float32).shape == tuple(observations["shape"])
    assert actions == {
        "dtype": "int64",
        "shape": [len(actions["data"])],
        "data": [int(np.float32(row[2]) > 0) for row in observations["data"]],
    }


def calls(function, *args):
    """How many functions are called for it, those of C included."""
    count = 0

    def profile(frame, event, arg):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        function(*args)
    finally:
        sys.setprofile(None)
    return count


def test_a_transition_costs_few_calls_to_read(tmp_path, ending):
    """However many there are: a rollout of 2,048 is read in well under a second."""
    counts = []
    for steps in (256, 1024):
        path = control_rollout(steps).save(tmp_path / f"r{steps}.{ending}")
        load_rollout(path)  # what it imports is not counted
        counts.append(calls(load_rollout, path))
    assert counts[1] - counts[0] < 15 * (1024 - 256)


# --- names and folders --------------------------------------------------------------------------


def test_the_index_goes_on_within_a_folder(tmp_path, ending):
    folder = tmp_path / "rollouts"
    paths = [save_rollout(structured_rollout(), folder, ending) for _ in range(3)]
    (folder / "rollout_12_20200101_000000.jsonl.gz").touch()
    (folder / "rollout_99_notes.txt").touch()
    paths.append(structured_rollout().save(folder))
    pattern = r"rollout_(\d+)_\d{8}_\d{6}\."
    names = [re.match(pattern, p.name) for p in paths]
    assert [int(match.group(1)) for match in names] == [0, 1, 2, 13]
    assert [p.name.split(".", 1)[1] for p in paths] == [*[ending] * 3, "json"]
    assert load_rollout(paths[0]) == structured_rollout()


SAVE_SOME = """
import sys, time
from pathlib import Path
from textenv.algos.storage.files import save_rollout
from textenv.algos.episodes.trajectory import Buffer, Trajectory

folder, number = Path(sys.argv[1]), int(sys.argv[2])
Path(f"{folder}.ready{number}").touch()
while not Path(f"{folder}.start").exists():
    time.sleep(0.001)
for i in range(20):
    save_rollout(Buffer([Trajectory(rewards=[float(number), float(i)])]), folder)
"""


def test_processes_that_save_into_one_folder_at_once(tmp_path):
    folder = tmp_path / "shared"
    workers = [
        subprocess.Popen([sys.executable, "-c", SAVE_SOME, folder, str(number)])
        for number in range(2)
    ]
    end = time.monotonic() + 60
    while len(list(tmp_path.glob("*.ready*"))) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    Path(f"{folder}.start").touch()
    assert [worker.wait(60) for worker in workers] == [0, 0]
    indices = sorted(int(path.name.split("_")[1]) for path in folder.iterdir())
    assert indices == list(range(40))  # no index twice, and nothing else is left
    saved = [rollout.trajectories[0].rewards for rollout in load_rollouts(folder)]
    for number in (0.0, 1.0):  # each one's in its order
        assert [i for n, i in saved if n == number] == list(range(20))


def test_an_index_that_was_taken_in_between(tmp_path, monkeypatch):
    """Another writes between the look at the folder and the reservation."""
    from textenv.algos.storage import files as rollout_files

    look, looks = rollout_files._indices, []

    def late(folder, besides=""):
        looks.append(look(folder, besides))
        if len(looks) == 1:  # it took this index and has gone
            (folder / "rollout_0_20241225_143022.json").touch()
        return looks[-1]

    monkeypatch.setattr(rollout_files, "_indices", late)
    path = structured_rollout().save(tmp_path)
    assert path.name.startswith("rollout_1_")
    assert not list(tmp_path.glob(".*"))


def test_an_interrupt_after_the_reservation_leaves_nothing(tmp_path, monkeypatch):
    from textenv.algos.storage import files as rollout_files

    look = rollout_files._indices

    def interrupted(folder, besides=""):
        if besides:  # the second look
            raise KeyboardInterrupt
        return look(folder, besides)

    monkeypatch.setattr(rollout_files, "_indices", interrupted)
    with pytest.raises(KeyboardInterrupt):
        structured_rollout().save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_rollouts_of_a_folder_in_order_of_their_index(tmp_path):
    rollouts = [
        Buffer([Trajectory(rewards=[float(i)], infos=[{}], actions=[0])]) for i in range(12)
    ]
    for i, rollout in enumerate(rollouts):
        rollout.save(tmp_path / f"rollout_{i}_2024122{9 - i % 9}_000000.json")
    (tmp_path / "rollout_3_notes.json").write_text("{}")
    (tmp_path / "transcript_0.jsonl").write_text("{}")
    assert load_rollouts(tmp_path) == rollouts
    assert load_rollouts(tmp_path, 3) == rollouts[:3]
    with pytest.raises(ValueError, match=rf"{tmp_path} holds 12 rollouts, and 13 are asked for"):
        load_rollouts(tmp_path, 13)
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="none holds no rollout"):
        load_rollouts(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_rollouts(tmp_path / "nowhere")


def test_names(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json is not a file"):
        load_rollout(tmp_path / "none.json")
    with pytest.raises(FileNotFoundError, match=r"none\.minari is not a folder"):
        load_rollout(tmp_path / "none.minari")
    with pytest.raises(ValueError, match=r"'r\.pickle'; known: \.json, \.jsonl\.gz, \.parquet, "):
        structured_rollout().save(tmp_path / "r.pickle")
    with pytest.raises(ValueError, match="unknown format 'pickle'"):
        save_rollout(structured_rollout(), tmp_path / "folder", "pickle")
    assert list(tmp_path.iterdir()) == []


class Odd:
    def __repr__(self):
        raise RuntimeError("no words")


def test_infos_are_written_whatever_they_hold(tmp_path, ending):
    """Nothing is trained on them: what JSON cannot hold is text."""
    info = {
        **{
            "inf": math.inf,
            "deep": [{"nan": math.nan}, (1, np.float32(-np.inf))],
            3: "a",
            None: "b",
        },
        **{"array": np.array([1.0, np.nan]), "objects": np.array([{4: 5}, None], object)},
        **{"set": {6}, "bytes": b"ab", "complex": 1j, "odd": Odd(), "long": range(7)},
        **{"good": np.float32([0.1, 2]), "flag": np.bool_(True), "text": "<inf>"},
    }
    rollout = control_rollout()
    rollout.trajectories[0].infos[0] = info
    rollout.trajectories[0].reset_info = {(1, 2): math.inf}
    loaded = load_rollout(rollout.save(tmp_path / f"r.{ending}"))
    found = loaded.trajectories[0].infos[0]
    assert found.pop("odd").startswith("<Odd instance at")
    assert (
        found.pop("array") == [1.0, "<nan>"] and found.pop("good").tolist() == info["good"].tolist()
    )
    assert found == {
        **{"inf": "<inf>", "deep": [{"nan": "<nan>"}, (1, "<-inf>")], "<3>": "a", "<None>": "b"},
        **{"objects": [{"<4>": 5}, None], "set": "<{6}>", "bytes": "<b'ab'>", "complex": "<1j>"},
        **{"long": "<range(0, 7)>", "flag": True, "text": "<inf>"},
    }
    assert loaded.trajectories[0].reset_info == {"<(1, 2)>": "<inf>"}
    assert load_rollout(loaded.save(tmp_path / f"again.{ending}")) == loaded
