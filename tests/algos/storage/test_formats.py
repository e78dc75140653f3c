"""What others see of a rollout's file: JSON Schema, plain JSON and NumPy, Parquet, Minari."""

from __future__ import annotations

import copy
import gzip
import json
import shutil
from dataclasses import fields

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import textenv.algos
from textenv.algos import (
    Buffer,
    RolloutRunner,
    Trajectory,
    create_policy,
    create_strategy,
    load_model,
    load_rollout,
)
from textenv.algos.episodes.trajectory import RolloutSource
from textenv.algos.storage.format_json import SCHEMA_PATH
from textenv.algos.storage.source import describe_source
from textenv.wrappers import RecordTranscript, TokenizeObservation


def collect(env, policy, steps, strategy=None, **algorithm):
    runner = RolloutRunner(env, policy, strategy, max_steps=steps)
    rollout = runner.collect()
    rollout.source = describe_source(runner, **algorithm)
    return rollout


@pytest.fixture(scope="module")
def control():
    def policy(obs):
        return (obs[:, 2] > 0).astype(np.int64), {"value": obs[:, 0], "logprob": -(obs[:, 1] ** 2)}

    env = SyncVectorEnv(
        [lambda: gym.make("CartPole-v1", max_episode_steps=30)] * 4,
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    return collect(env, policy, 200, gamma=0.99, gae_lambda=0.95)


@pytest.fixture(scope="module")
def single():
    def policy(obs):
        return np.float32([obs[2] / 8]), {"unclipped_action": np.float32([obs[2] / 4])}

    return collect(gym.make("Pendulum-v1"), policy, 40)


@pytest.fixture(scope="module")
def words():
    policy = create_policy(*load_model("tiny-lm"), {"max_tokens": 5, "top_p": 0.9})
    env = gym.make("textenv:TextGen-v0", task="guess_number")
    return collect(env, policy, 96, create_strategy("grpo", num_generations=2))


@pytest.fixture(scope="module")
def tokens():
    def policy(obs):
        return int(obs["ids"][0]) % 5, {}

    env = gym.make("textenv:TextGenTokens-v0", tokenizer="tiny-lm", max_tokens=4)
    return collect(env, policy, 10)


@pytest.fixture(params=["control", "single", "words", "tokens"])
def rollout(request):
    return request.getfixturevalue(request.param)


# --- the JSON Schema ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def schema():
    return json.loads(SCHEMA_PATH.read_text())


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


# --- JSON and NumPy alone -----------------------------------------------------------------------


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


# --- Parquet ------------------------------------------------------------------------------------


def test_parquet_is_read_by_plain_pyarrow(rollout, tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(rollout.save(tmp_path / "r.parquet"))
    assert table.column_names == [f.name for f in fields(Trajectory)]
    assert table.num_rows == len(rollout)
    for row, trajectory in zip(table.to_pylist(), rollout, strict=True):
        assert row["rewards"] == trajectory.rewards
        assert (row["terminated"], row["truncated"]) == (
            trajectory.terminated,
            trajectory.truncated,
        )
        assert row["token_ids"] == trajectory.token_ids and row["values"] == trajectory.values
        assert row["prompt"] == trajectory.prompt
        assert json.loads(row["infos"])[0].keys() == trajectory.infos[0].keys()
        for seen, observation in zip(row["observations"], trajectory.observations, strict=True):
            if isinstance(observation, dict):
                assert {k: np.array(v).tolist() for k, v in seen.items()} == {
                    k: v.tolist() for k, v in observation.items()
                }
            elif isinstance(observation, str):
                assert seen == observation
            else:
                assert np.array_equal(np.array(seen, np.float32), observation)


def test_parquet_of_what_is_not_alike(tmp_path):
    pytest.importorskip("pyarrow")
    steps = [np.zeros(2), np.zeros(3, np.float32), "text", None, (1, 2)]
    trajectories = [
        Trajectory(observations=steps, actions=[1, 2.5], unclipped_actions=None),
        Trajectory(observations=[], actions=[3], unclipped_actions=[np.zeros((0, 2))]),
        Trajectory(final_observation=np.float32(1), unclipped_actions=[], values=[]),
    ]
    read = load_rollout(Buffer(trajectories).save(tmp_path / "lr=3" / "r.parquet"))
    assert read == Buffer(trajectories)
    assert [t.unclipped_actions is None for t in read] == [True, False, False]


def test_another_parquet_file(tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), tmp_path / "r.parquet")
    with pytest.raises(ValueError, match=r"r\.parquet is not a rollout of textenv"):
        load_rollout(tmp_path / "r.parquet")


def test_parquet_of_another_version(control, tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    from textenv.algos.storage import format_json as rollout_json

    path = control.save(tmp_path / "r.parquet")
    monkeypatch.setattr(rollout_json, "SCHEMA_VERSION", 3)
    with pytest.raises(ValueError, match=r"r\.parquet has schema version 2; .*reads version 3"):
        load_rollout(path)


# --- Minari -------------------------------------------------------------------------------------


@pytest.fixture
def minari():
    return pytest.importorskip("minari")


def minari_episode(episode):
    """An episode of Minari step by step, as (observation, action, reward, flags)."""

    def step(column, t):
        if isinstance(column, dict):
            return {key: step(part, t) for key, part in column.items()}
        return column[t]

    observations = [step(episode.observations, t) for t in range(len(episode) + 1)]
    return observations, [step(episode.actions, t) for t in range(len(episode))]


def test_minari_itself_gives_the_same(minari, rollout, tmp_path):
    dataset = minari.MinariDataset(rollout.save(tmp_path / "r.minari") / "data")
    assert dataset.total_episodes == len(rollout)
    assert dataset.total_steps == rollout.num_transitions
    for episode, trajectory in zip(dataset, rollout, strict=True):
        observations, actions = minari_episode(episode)
        ours = [*trajectory.observations, trajectory.final_observation]
        for seen, observation in zip(observations, ours, strict=True):
            if isinstance(observation, dict):
                assert seen.keys() == observation.keys()
                assert all(np.array_equal(seen[k], observation[k]) for k in seen)
            else:
                assert np.array_equal(seen, observation)
            assert dataset.observation_space.contains(seen)
        assert np.array_equal(actions, trajectory.actions)
        assert episode.rewards.tolist() == trajectory.rewards
        assert not episode.terminations[:-1].any() and not episode.truncations[:-1].any()
        assert episode.terminations[-1] == trajectory.terminated
        # A trajectory that the rollout's end cuts is truncated in Minari.
        assert episode.truncations[-1] == (not trajectory.terminated or trajectory.truncated)


def test_minari_finds_it_by_its_name_and_by_its_id(minari, control, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    path = control.save(tmp_path / "cart pole.minari")
    dataset = minari.load_dataset("cart pole.minari")
    assert dataset.total_steps == 200 and dataset.id == "cart-pole-v0"
    spec = dataset.recover_environment().spec
    assert (spec.id, spec.max_episode_steps) == ("CartPole-v1", 30)
    assert next(iter(dataset.sample_episodes(1))).rewards.sum() > 0
    shutil.move(path, tmp_path / "cart-pole-v0")
    assert [*minari.list_local_datasets()] == ["cart-pole-v0"]
    assert minari.load_dataset("cart-pole-v0").total_steps == 200


def test_images_are_not_compressed_with_loss(minari, tmp_path):
    space = gym.spaces.Box(0, 255, (32, 32, 3), np.uint8)
    rng = np.random.default_rng(0)
    images = [rng.integers(256, size=space.shape, dtype=np.uint8) for _ in range(3)]
    source = describe_source(gym.make("CartPole-v1"))
    source.observation_space = textenv.algos.storage.space_json.describe_space(space)
    trajectory = Trajectory(
        observations=images[:2],
        actions=[np.int64(0), np.int64(1)],
        rewards=[0.0, 1.0],
        infos=[{}, {}],
        final_observation=images[2],
        terminated=True,
    )
    rollout = Buffer([trajectory], source)
    path = rollout.save(tmp_path / "r.minari")
    assert load_rollout(path) == rollout
    assert np.array_equal(minari.MinariDataset(path / "data")[0].observations, images)


def test_what_minari_cannot_hold(minari, control, tmp_path):
    path = tmp_path / "r.minari"
    with pytest.raises(ValueError, match=r"needs the spaces: set the rollout's source to describe"):
        Buffer(control.trajectories).save(path)
    other = copy.deepcopy(control)
    other.trajectories[2].observations[1] = np.array([0.1, 0, 0, 0])  # float64
    with pytest.raises(ValueError, match="trajectory 2 cannot be written to a Minari dataset"):
        other.save(path)
    wide = Buffer(
        [
            Trajectory(
                observations=[np.array([0.1, 0, 0, 0])],
                actions=[0],
                rewards=[1.0],
                infos=[{}],
                final_observation=np.zeros(4),
            )
        ],
        control.source,
    )
    with pytest.raises(ValueError, match="float64 are not held by a space of float32"):
        wide.save(path)
    assert list(tmp_path.iterdir()) == []
    control.save(path)
    with pytest.raises(ValueError, match=r"r\.minari is there already"):
        control.save(path)
    assert load_rollout(path) == control


@pytest.mark.parametrize("lost", ["data/metadata.json", "data/1", "data/0/metadata.json"])
def test_a_minari_dataset_that_is_not_whole(minari, control, tmp_path, lost):
    path = control.save(tmp_path / "r.minari")
    gone = path / lost
    assert gone.exists()
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    with pytest.raises(ValueError, match=r"r\.minari is not a whole Minari dataset"):
        load_rollout(path)


def test_a_minari_dataset_of_others(minari, control, tmp_path):
    path = control.save(tmp_path / "r.minari")
    metadata = path / "data" / "metadata.json"
    content = json.loads(metadata.read_text())
    del content["textenv"]
    metadata.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"r\.minari is not a rollout of textenv"):
        load_rollout(path)
