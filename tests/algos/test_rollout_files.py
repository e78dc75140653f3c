"""Rollouts that are written and read again."""

from __future__ import annotations

import gzip
import json
import math
import re

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

from textenv import TextGenerationEnv
from textenv.algos import (
    Buffer,
    RolloutRunner,
    Trajectory,
    create_policy,
    create_strategy,
    load_rollout,
)

FORMATS = ["json", "jsonl.gz"]


def control_rollout():
    def policy(obs):
        actions = (obs[:, 2] > 0).astype(np.int64)
        return actions, {"value": obs[:, 0] / 3, "logprob": -(obs[:, 1] ** 2)}

    env = SyncVectorEnv([lambda: gym.make("CartPole-v1")] * 2)
    return RolloutRunner(env, policy, max_steps=60).collect()


def text_rollout(tiny):
    policy = create_policy(*tiny, {"max_tokens": 6, "top_p": 0.9})
    env = TextGenerationEnv(['1+1="', "éß中🙂\n\t\\"], lambda p, c, e: {"length": len(c) / 7})
    strategy = create_strategy("grpo", num_generations=3)
    return RolloutRunner(env, policy, strategy, max_steps=6).collect()


def structured_rollout():
    return Buffer(
        [
            Trajectory(
                observations=[{"a": np.zeros((0, 3)), "b": (1, np.float32(0.1))}],
                actions=[np.array([1.5, -2.25], np.float32)],
                rewards=[1 / 3],
                infos=[{"flag": np.bool_(True), "nested": {"count": np.int64(3), "none": None}}],
                final_observation={"a": np.array([[1]], np.uint8), "b": (2, np.array(7))},
                truncated=True,
                reset_info={"text": "</script>\u2028"},
                policy_version=4,
            )
        ]
    )


@pytest.mark.filterwarnings("ignore:the model's tokenizer does not know")
@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("kind", ["control", "text", "structured", "empty"])
def test_what_is_read_equals_what_was_written(tiny, tmp_path, kind, ending):
    rollout = {
        "control": control_rollout,
        "text": lambda: text_rollout(tiny),
        "structured": structured_rollout,
        "empty": Buffer,
    }[kind]()
    path = rollout.save(tmp_path / "new" / f"rollout.{ending}")
    read = load_rollout(path)
    assert read == rollout
    assert (
        len(read) == len(rollout) == {"text": 6, "structured": 1, "empty": 0}.get(kind, len(read))
    )
    for ours, theirs in zip(read, rollout):
        assert ours.total_reward == theirs.total_reward
        for a, b in zip(ours.observations, theirs.observations):
            if isinstance(b, np.ndarray):
                assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    if kind == "control":
        read.trajectories[0].rewards[3] += 1e-15
        assert read != rollout


def test_numbers_are_exact(tmp_path):
    rng = np.random.default_rng(0)
    rewards = [0.1, 1e-310, 1e308, -0.0, *rng.normal(size=50).tolist()]
    observations = [rng.normal(size=3).astype(np.float32) for _ in rewards]
    trajectory = Trajectory(observations=observations, actions=[0] * 54, rewards=rewards)
    read = load_rollout(Buffer([trajectory]).save(tmp_path / "r.json")).trajectories[0]
    assert read.rewards == rewards
    for ours, theirs in zip(read.observations, observations):
        assert ours.dtype == np.float32 and ours.tobytes() == theirs.tobytes()


def test_the_index_goes_on_within_a_folder(tmp_path):
    folder = tmp_path / "rollouts"
    paths = [structured_rollout().save(folder) for _ in range(3)]
    (folder / "rollout_12_20200101_000000.jsonl.gz").touch()
    (folder / "rollout_99_notes.txt").touch()
    paths.append(structured_rollout().save(folder))
    names = [re.fullmatch(r"rollout_(\d+)_\d{8}_\d{6}\.json", p.name) for p in paths]
    assert [int(match.group(1)) for match in names] == [0, 1, 2, 13]
    assert load_rollout(paths[0]) == structured_rollout()


@pytest.mark.parametrize("name", ["new", "new.json", "new.jsonl.gz"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rewards", [math.nan]),
        ("rewards", [math.inf]),
        ("observations", [np.array([1.0, math.nan])]),
        ("infos", [{"deep": [{"x": math.nan}]}]),
        ("actions", [object()]),
        ("infos", [{1: "a key that JSON would make text"}]),
    ],
)
def test_what_json_cannot_hold_is_refused(tmp_path, name, field, value):
    good = structured_rollout().trajectories[0]
    bad = Trajectory(**{"observations": [0], "actions": [0], "rewards": [0.0], field: value})
    with pytest.raises(ValueError, match="trajectory 1 cannot be written"):
        Buffer([good, bad]).save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_refused_rollout_leaves_the_old_file(tmp_path):
    path = structured_rollout().save(tmp_path / "r.json")
    with pytest.raises(ValueError):
        Buffer([Trajectory(rewards=[math.nan])]).save(path)
    assert load_rollout(path) == structured_rollout()
    Buffer().save(path)
    assert len(load_rollout(path)) == 0


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("share", [0, 0.05, 0.5, 0.95])
def test_a_file_that_is_cut_off(tmp_path, ending, share):
    path = control_rollout().save(tmp_path / f"r.{ending}")
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=rf"r\.{ending} is cut off or not a rollout"):
        load_rollout(path)


def test_a_file_with_a_broken_byte(tmp_path):
    path = control_rollout().save(tmp_path / "r.jsonl.gz")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"r\.jsonl\.gz is cut off or not a rollout"):
        load_rollout(path)


HEADER = {"format": "textenv.rollout", "schema_version": 2}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({**HEADER, "schema_version": 1, "trajectories": []}, "schema version 1.*reads version 2"),
        ({"trajectories": []}, "not a rollout of textenv"),
        ([1, 2], "not a rollout of textenv"),
        ({**HEADER, "trajectories": [{}, {"colour": 1}]}, r"trajectory 1: unknown keys \['colour'"),
        ({**HEADER, "trajectories": [3]}, "trajectory 0: expected an object, got 3"),
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


def test_names(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        load_rollout(tmp_path / "none.json")
    with pytest.raises(ValueError, match=r"'r\.pickle'; known: \.json, \.jsonl\.gz"):
        structured_rollout().save(tmp_path / "r.pickle")
    assert list(tmp_path.iterdir()) == []
