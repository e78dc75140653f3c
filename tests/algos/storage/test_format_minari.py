"""Minari: what Minari itself reads, and what it cannot hold."""

from __future__ import annotations

import copy
import json
import shutil

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import FlattenObservation, RescaleAction, TransformObservation

import textenv.algos
from textenv.algos import Buffer, RolloutRunner, Trajectory, load_rollout
from textenv.algos.control.random_policy import RandomPolicy
from textenv.algos.episodes.trajectory import RolloutSource
from textenv.algos.storage.source import describe_source, single_spaces
from textenv.algos.storage.space_json import describe_space
from textenv.errors import DataError
from textenv.wrappers.sb3_vec_env import SB3VectorEnv


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


def first_two():
    space = gym.spaces.Box(-9, 9, (2,))
    return TransformObservation(gym.make("CartPole-v1"), lambda seen: seen[:2], space)


class Unrecorded(gym.ActionWrapper):
    """Not one of those whose arguments Gymnasium knows."""

    def __init__(self, env):
        super().__init__(env)
        self.action_space = gym.spaces.Discrete(3)

    def action(self, action):
        return min(action, 1)


def flat_lakes():
    bare = gym.make_vec("FrozenLake-v1", 2, vectorization_mode="sync")
    return gym.wrappers.vector.FlattenObservation(bare)


def stacked():
    """Wrappers of Stable-Baselines3, of which no spec knows."""
    vec_env = pytest.importorskip("stable_baselines3.common.vec_env")
    single = vec_env.DummyVecEnv([lambda: gym.make("CartPole-v1")])
    return SB3VectorEnv(vec_env.VecFrameStack(single, 2))


@pytest.mark.parametrize(
    "make, recovered",
    [
        (lambda: gym.make("CartPole-v1"), True),
        (lambda: FlattenObservation(gym.make("FrozenLake-v1")), True),
        (lambda: RescaleAction(gym.make("Pendulum-v1", max_episode_steps=9), -1.0, 0.5), True),
        (first_two, False),
        (lambda: Unrecorded(gym.make("CartPole-v1")), False),
        (flat_lakes, False),
        (stacked, False),
    ],
)
def test_the_environment_that_a_dataset_recovers_has_its_spaces(minari, make, recovered, tmp_path):
    env = make()
    space, count = single_spaces(env)[1], getattr(env, "num_envs", None)
    runner = RolloutRunner(env, RandomPolicy(space, num_envs=count), max_steps=6)
    rollout = runner.collect()
    rollout.source = describe_source(runner)
    path = rollout.save(tmp_path / "r.minari")
    assert load_rollout(path) == rollout
    dataset = minari.MinariDataset(path / "data")
    if not recovered:
        with pytest.raises(ValueError, match="env_spec is None"):
            dataset.recover_environment()
        return
    again = dataset.recover_environment()
    assert again.observation_space == dataset.observation_space == env.observation_space
    assert again.action_space == dataset.action_space == env.action_space
    assert again.spec.max_episode_steps == env.spec.max_episode_steps


EMPTY = gym.spaces.Box(0, 1, (3, 0))
WITHOUT_ITEMS = {
    "alone": EMPTY,
    "in a dict": gym.spaces.Dict(a=EMPTY, b=gym.spaces.Discrete(2)),
    "deep": gym.spaces.Tuple([gym.spaces.Dict(a=gym.spaces.Dict(b=EMPTY)), gym.spaces.Discrete(2)]),
}


@pytest.mark.parametrize("place", WITHOUT_ITEMS)
@pytest.mark.parametrize("what", ["observation", "action"])
def test_arrays_without_items(minari, place, what, tmp_path):
    """Arrow would divide by their number of items, which ends the process."""
    items = {"observation": gym.spaces.Discrete(2), "action": gym.spaces.Discrete(2)}
    items[what] = WITHOUT_ITEMS[place]
    made = [items["observation"].sample() for _ in range(3)]
    trajectory = Trajectory(
        observations=made[:2],
        actions=[items["action"].sample() for _ in range(2)],
        rewards=[1.0, 0.0],
        infos=[{}, {}],
        final_observation=made[2],
    )
    described = {f"{name}_space": describe_space(space) for name, space in items.items()}
    rollout = Buffer([trajectory], RolloutSource(**described))
    with pytest.raises(DataError, match=r"arrays without items, and Box.*another format"):
        rollout.save(tmp_path / "r.minari")
    for ending in ("json", "jsonl.gz", "parquet"):
        assert load_rollout(rollout.save(tmp_path / f"r.{ending}")) == rollout


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
