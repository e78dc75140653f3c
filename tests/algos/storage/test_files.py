"""Rollouts that are written and read again: names, formats, errors."""

from __future__ import annotations

import gzip
import json
import math
import re
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Tuple
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from textenv.algos import (
    Buffer,
    RolloutRunner,
    Trajectory,
    create_policy,
    create_strategy,
    load_rollout,
)
from textenv.algos.episodes.trajectory import RolloutSource
from textenv.algos.storage.files import FORMATS, load_rollouts, save_rollout
from textenv.algos.storage.source import describe_source
from textenv.algos.storage.space_json import describe_space

NEEDS = {"parquet": "pyarrow", "minari": "minari"}
ENDINGS = list(FORMATS)
FILES = [ending for ending in FORMATS if ending != "minari"]


@pytest.fixture(params=ENDINGS)
def ending(request):
    if request.param in NEEDS:
        pytest.importorskip(NEEDS[request.param])
    return request.param


def control_rollout(steps=60):
    def policy(obs):
        actions = (obs[:, 2] > 0).astype(np.int64)
        return actions, {"value": obs[:, 0] / 3, "logprob": -(obs[:, 1] ** 2)}

    env = SyncVectorEnv(
        [lambda: gym.make("CartPole-v1")] * 2, autoreset_mode=AutoresetMode.SAME_STEP
    )
    runner = RolloutRunner(env, policy, max_steps=steps)
    rollout = runner.collect()
    rollout.source = describe_source(runner, gamma=0.99, gae_lambda=0.95)
    return rollout


def single_rollout():
    class Clipping:
        def __init__(self):
            self.rng = np.random.default_rng(0)

        def __call__(self, obs):
            drawn = self.rng.normal(scale=3, size=1).astype(np.float32)
            return np.clip(drawn, -2, 2), {"unclipped_action": drawn, "logprob": -0.5}

        def values(self, observations):
            return [float(obs[0]) / 7 for obs in observations]

    runner = RolloutRunner(gym.make("Pendulum-v1"), Clipping(), max_steps=30)
    rollout = runner.collect()
    rollout.source = describe_source(runner)
    return rollout


def text_rollout(tiny):
    prompts = ['1+1="', "éß中🙂\n\t\\"]
    env = gym.make("TextGen-v0", prompts=prompts, reward_fn=lambda p, c, e: {"length": len(c) / 7})
    policy = create_policy(*tiny, {"max_tokens": 6, "top_p": 0.9})
    runner = RolloutRunner(env, policy, create_strategy("grpo", num_generations=3), max_steps=6)
    rollout = runner.collect()
    rollout.source = describe_source(runner)
    return rollout


def structured_rollout():
    """Two trajectories of what is awkward: nested spaces, texts, scalars, arrays of all types."""
    spaces = {
        "image": Box(0, 255, (2, 3, 1), np.uint8),
        "mask": MultiBinary(4),
        "pair": Tuple([Discrete(5), Box(-np.inf, np.inf, (2,), np.float32)]),
    }
    rng = np.random.default_rng(3)

    def observation():
        return {
            "image": rng.integers(256, size=(2, 3, 1), dtype=np.uint8),
            "mask": rng.integers(2, size=4, dtype=np.int8),
            "pair": (np.int64(rng.integers(5)), rng.normal(size=2).astype(np.float32)),
        }

    infos = [
        {},
        {"flag": np.bool_(True), "nested": {"count": np.int64(3), "none": None, "t": (1, "a")}},
        {"dtype": "a", "shape": [1], "data": 2},  # as if it were an array
        {"__tuple__": [1], "deep": [{"x": np.zeros((0, 3)), "y": np.float32(0.1)}, [], ()]},
    ]
    trajectories = [
        Trajectory(
            observations=[observation() for _ in infos],
            actions=[np.array([1 / 3, -0.0], np.float64)] * len(infos),
            rewards=[1 / 3, -0.0, 1e308, 5e-324],
            infos=infos,
            final_observation=observation(),
            truncated=True,
            reset_info={"text": "</script>\u2028 é中🙂", "a": np.arange(3, dtype=np.uint16)},
            policy_version=4,
            group_id=0,
        ),
        Trajectory(
            observations=[observation()],
            actions=[np.array([2**-1074, 1e300])],
            rewards=[0.1],
            infos=[{"words": np.array(["é", "longer"])}],
            final_observation=observation(),
            terminated=True,
            seed=2**40,
            env_index=3,
            values=[0.2],
            support=None,
        ),
    ]
    source = RolloutSource(
        observation_space=describe_space(Dict(spaces)),
        action_space=describe_space(Box(-np.inf, np.inf, (2,), np.float64)),
        env_kwargs={"nested": {"é": [1, None, 2.5]}},
        versions={"numpy": "1"},
    )
    return Buffer(trajectories, source)


def empty_rollout():
    return Buffer(source=control_rollout(2).source)


KINDS = {
    "control": control_rollout,
    "single": single_rollout,
    "structured": structured_rollout,
    "empty": empty_rollout,
}


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


# --- what is refused ----------------------------------------------------------------------------


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
        ("infos", [{"deep": [{"x": math.nan}]}], "infos: nan"),
        ("infos", [{"x": np.float32("nan")}], "infos: an array"),
        ("infos", [{"x": np.array([object()])}], "infos: an array of object"),
        ("actions", [object()], "actions: object is not JSON"),
        ("infos", [{1: "a key that JSON would make text"}], "infos: key 1 is not text"),
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


HEADER = {"format": "textenv.rollout", "schema_version": 2}
ARRAY = {"dtype": "float32", "shape": [2, 2], "data": [1, 2, 3]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({**HEADER, "schema_version": 1, "trajectories": []}, "schema version 1.*reads version 2"),
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
