"""JSON: the schema, and files that are read by json and NumPy alone."""

from __future__ import annotations

import gzip
import json
from dataclasses import fields

import gymnasium as gym
import numpy as np
import pytest

from textenv.algos import Trajectory, load_rollout
from textenv.algos.episodes.trajectory import RolloutSource
from textenv.wrappers import RecordTranscript, TokenizeObservation


def validator(schema):
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_schema_ships_with_the_package():
    import importlib.resources

    assert (importlib.resources.files("textenv.algos.storage") / "rollout.schema.json").is_file()


def test_the_schema_knows_every_field(schema):
    trajectory, source = schema["$defs"]["trajectory"], schema["$defs"]["source"]
    assert {*trajectory["properties"]} == {f.name for f in fields(Trajectory)}
    assert {*source["properties"]} == {f.name for f in fields(RolloutSource)}
    assert all(rule["description"] for rule in trajectory["properties"].values())


def test_saved_files_are_valid(schema, rollout, tmp_path):
    valid = validator(schema)
    content = json.loads(rollout.save(tmp_path / "r.json").read_text())
    valid.validate(content)
    lines = gzip.decompress(rollout.save(tmp_path / "r.jsonl.gz").read_bytes()).splitlines()
    head, *rows = map(json.loads, lines)
    assert rows == content["trajectories"]
    valid.validate({**head, "trajectories": rows})


def test_a_transcript_has_valid_rows(schema, tmp_path):
    env = RecordTranscript(TokenizeObservation(gym.make("textenv:TextGen-v0"), "tiny-lm"), tmp_path)
    first, _ = env.reset(seed=0)
    env.step("12")
    env.close()
    header, row = map(json.loads, env.path.read_text().splitlines())
    assert header["schema_version"] == schema["properties"]["schema_version"]["const"]
    rows = {"$ref": "#/$defs/trajectory", "$defs": schema["$defs"]}
    validator(rows).validate(row)
    [trajectory] = load_rollout(env.path)
    [observation] = trajectory.observations
    assert observation.keys() == first.keys()
    for key, value in first.items():
        assert observation[key].dtype == value.dtype and np.array_equal(observation[key], value)


def broken(path, value):
    """A change of the content: the item at a path becomes the value, or goes where it is None."""

    def change(content):
        *way, last = path
        for key in way:
            content = content[key]
        if value is None:
            del content[last]
        else:
            content[last] = value

    return change


FIRST = ("trajectories", 0)


@pytest.mark.parametrize(
    "change",
    [
        broken(["format"], "another"),
        broken(["schema_version"], 1),
        broken(["created"], "yesterday"),
        broken(["layout", "num_transitions"], None),
        broken(["layout", "num_envs"], 0),
        broken(["source", "policy_hash"], "abc"),
        broken(["source", "observation_space", "type"], "Sequence"),
        broken(["source", "observation_space", "low"], ["-Infinity"]),
        broken(["source", "action_space", "n"], None),
        broken(["source", "colour"], "red"),
        broken([*FIRST, "colour"], "red"),
        broken([*FIRST, "rewards"], None),
        broken([*FIRST, "rewards", 0], "1"),
        broken([*FIRST, "terminated"], 1),
        broken([*FIRST, "observations", "dtype"], "object"),
        broken([*FIRST, "observations", "shape"], [-1]),
        broken([*FIRST, "observations", "more"], 1),
        broken([*FIRST, "observations"], 3),
        broken([*FIRST, "token_mask"], [2]),
        broken([*FIRST, "env_index"], -1),
        broken([*FIRST, "infos"], [3]),
        broken([*FIRST, "values"], {"dtype": "float32", "shape": [1], "data": [1]}),
    ],
)
def test_broken_files_are_not_valid(schema, control, tmp_path, change):
    valid = validator(schema)
    content = json.loads(control.save(tmp_path / "r.json").read_text())
    assert valid.is_valid(content)
    change(content)
    assert not valid.is_valid(content)


def test_read_with_json_and_numpy_alone(control, tmp_path):
    content = json.loads(control.save(tmp_path / "r.json").read_text())
    assert content["layout"]["num_envs"] == 4 and content["layout"]["n_steps"] == 50
    source = content["source"]
    assert (source["env_id"], source["gamma"], source["gae_lambda"]) == ("CartPole-v1", 0.99, 0.95)
    assert source["env_kwargs"] == {"max_episode_steps": 30} and source["seed"] == 0
    env = gym.make("CartPole-v1")
    space = env.observation_space
    assert [float(low) for low in source["observation_space"]["low"]] == pytest.approx(space.low)
    assert source["observation_space"]["high"][1] == "inf"
    steps = 0
    for row, trajectory in zip(content["trajectories"], control, strict=True):
        observations = np.array(row["observations"]["data"], row["observations"]["dtype"])
        assert observations.dtype == np.float32
        assert np.array_equal(observations, trajectory.observations)
        assert row["rewards"] == [1.0] * len(trajectory)  # raw
        assert row["values"] == [float(obs[0]) for obs in observations]
        final = row["final_observation"]
        assert np.array_equal(np.array(final["data"], final["dtype"]), trajectory.final_observation)
        steps += len(observations)
        # What comes after is what the environment's own dynamics give.
        env.reset()
        env.unwrapped.state = observations[-1].astype(np.float64)
        after, _, terminated, *_ = env.step(row["actions"]["data"][-1])
        assert after == pytest.approx(final["data"], abs=1e-5)
        assert terminated == row["terminated"]
    assert steps == content["layout"]["num_transitions"] == 200
    flags = {(row["terminated"], row["truncated"]) for row in content["trajectories"]}
    assert flags == {(True, False), (False, True), (False, False)}


def test_the_file_says_what_is_what(control, schema, tmp_path):
    layout = json.loads(control.save(tmp_path / "r.json").read_text())["layout"]
    assert layout["fields"].keys() == schema["$defs"]["trajectory"]["properties"].keys()
    assert "raw" in layout["fields"]["rewards"] and "env_index" in layout["cut"]
