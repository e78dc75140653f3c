"""Saved rollouts: joined into episodes, and refused where they do not fit."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from tests.algos.control_envs import Steps
from tests.algos.offline.shared import SPACES, part, starts, three_rollouts
from textenv.algos import Buffer, MLPPolicy, RolloutRunner, Trajectory
from textenv.algos.episodes.trajectory import RolloutSource
from textenv.algos.offline.data import (
    best_episodes,
    common_source,
    join_episodes,
    mean_return,
    refuse_stale,
    spaces_of,
)
from textenv.algos.storage.files import load_rollouts, save_rollout
from textenv.algos.storage.source import describe_source
from textenv.algos.storage.space_json import describe_space
from textenv.errors import ConfigError, DataError


def test_episodes_are_put_back_together():
    episodes = join_episodes(three_rollouts())
    assert starts(episodes) == [100, 0, 200, 50, 70, 900, 950]
    assert [e.whole for e in episodes] == [True, True, True, True, False, False, True]
    assert [e.trajectory.total_reward for e in episodes] == [1, 6, 10, 10, 14, 50, 3]
    long = episodes[2].trajectory
    assert [int(o[0]) for o in long.observations] == [200, 201, 202, 203]
    assert long.rewards == [4, 0, 5, 1] and int(long.final_observation[0]) == 204
    assert [i["step"] for i in long.infos] == [200, 201, 202, 203]
    assert long.terminated and not long.truncated and long.values is None
    assert episodes[1].trajectory.truncated
    assert mean_return(episodes) == 6.0  # (1 + 6 + 10 + 10 + 3) / 5


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.2, [200]),
        (0.21, [200, 50]),
        (0.4, [200, 50]),
        (0.6, [0, 200, 50]),
        (1.0, [100, 0, 200, 50, 950]),
    ],
)
def test_the_best_share_of_whole_episodes(share, expected):
    assert starts(best_episodes(join_episodes(three_rollouts()), share)) == expected


def test_dict_observations_join_too():
    def seen(i):
        return {"a": np.array([i]), "b": np.array([[2 * i]])}

    def cut(first, last, **more):
        return Trajectory(
            *([seen(first)], [0], [1.0], [{}]),
            final_observation=seen(last),
            env_index=0,
            first_step=first,
            **more,
        )

    joined = join_episodes([Buffer([cut(0, 1, seed=3)]), Buffer([cut(1, 2, terminated=True)])])
    assert [len(e.trajectory) for e in joined] == [2] and joined[0].whole
    apart = join_episodes([Buffer([cut(0, 5, seed=3)]), Buffer([cut(1, 2, terminated=True)])])
    assert [(len(e.trajectory), e.whole) for e in apart] == [(1, False), (1, False)]


def test_a_vector_environment_gives_the_same_episodes_however_it_is_cut():
    """One long rollout against four short ones of the same steps."""

    def collect(count, size):
        env = gym.make_vec(
            *("CartPole-v1", 4, "sync"),
            vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
        )
        policy = MLPPolicy(env.single_observation_space, env.single_action_space)
        runner = RolloutRunner(env, policy, max_steps=size, seed=2)
        return [runner.collect() for _ in range(count)]

    whole = [e.trajectory for e in join_episodes(collect(1, 800)) if e.whole]
    cut = [e.trajectory for e in join_episodes(collect(4, 200)) if e.whole]
    assert len(whole) > 15

    def as_rows(trajectories):
        return sorted((np.array(t.observations).tolist(), t.rewards) for t in trajectories)

    assert as_rows(whole) == as_rows(cut)


def test_stale_rollouts_are_refused_for_ppo():
    box, two = spaces.Box(-1, 1, (1,)), spaces.Discrete(2)
    policy, other = (MLPPolicy(box, two, seed=seed) for seed in (0, 1))
    rollout = Buffer(source=RolloutSource(policy_hash=policy.fingerprint()))
    refuse_stale([rollout], policy)
    with pytest.raises(ConfigError) as caught:
        refuse_stale([rollout], other)
    for needed in (policy.fingerprint()[:12], other.fingerprint()[:12], "on-policy", "awr", "rft"):
        assert needed in str(caught.value)
    other.set_weights(policy.weights)
    refuse_stale([rollout], other)
    policy.set_weights(policy.weights | {"actor.bias": np.ones(2)})  # after one update
    with pytest.raises(ConfigError, match="rollout 0 was collected by policy"):
        refuse_stale([rollout], policy)
    with pytest.raises(ConfigError, match="does not name"):
        refuse_stale([Buffer()], policy)


def test_without_whole_episodes_there_is_no_mean_return():
    episodes = join_episodes([Buffer([part(0, 0, [1, 1], seed=0)], SPACES)])
    assert mean_return(episodes) is None
    with pytest.raises(DataError, match="none of the 1 episodes"):
        best_episodes(episodes, 0.5)


def test_rollouts_of_one_environment_have_a_common_source():
    assert common_source(three_rollouts()) is not None
    with pytest.raises(DataError, match="hold no trajectories"):
        common_source([Buffer([], SPACES)])
    with pytest.raises(DataError, match="hold no trajectories"):
        common_source([])
    other = replace(SPACES, env_kwargs={"task": "sort"})
    with pytest.raises(DataError, match=r"env_kwargs of the first is \{\}, of number 1 .*sort"):
        common_source([*three_rollouts()[:1], Buffer([part(0, 0, [1])], other)])


def test_spaces_are_those_of_the_source_or_of_the_environment():
    observation, action = spaces.Box(-2, 2, (3,)), spaces.Discrete(4)
    source = RolloutSource(
        observation_space=describe_space(observation), action_space=describe_space(action)
    )
    assert spaces_of(source) == (observation, action)
    env = gym.make("CartPole-v1")
    assert spaces_of(RolloutSource(), env) == (env.observation_space, env.action_space)
    vector = gym.make_vec("CartPole-v1", 2, "sync")
    assert spaces_of(RolloutSource(), vector) == (env.observation_space, env.action_space)
    with pytest.raises(DataError, match="do not say what their spaces are"):
        spaces_of(RolloutSource(observation_space=source.observation_space))


@pytest.mark.parametrize("ending", ["json", "jsonl.gz", "parquet", "minari"])
@pytest.mark.parametrize("every", [1, 2])
def test_only_parts_that_follow_each_other_are_joined(tmp_path, ending, every):
    """All even steps look alike, and every second rollout is missing."""
    pytest.importorskip({"parquet": "pyarrow", "minari": "minari"}.get(ending, "gzip"))
    env = SyncVectorEnv([lambda n=n: Steps(n, 2) for n in (10, 3)])
    runner = RolloutRunner(env, lambda o: (np.zeros((2, 2), np.int8), {}), max_steps=8)
    rollouts = []
    for number in range(40):
        rollout = runner.collect()
        if number % every == 0:
            rollout.source = describe_source(runner)
            save_rollout(rollout, tmp_path / "rollouts", ending)
            rollouts.append(rollout)
    read = load_rollouts(tmp_path / "rollouts")
    assert read == rollouts
    joined = join_episodes(read)
    whole = {0: 0, 1: 0}
    for episode in joined:
        t = episode.trajectory
        length = (10, 3)[t.env_index]
        assert [o[0] for o in t.observations] == [(t.first_step + i) % 2 for i in range(len(t))]
        assert t.terminated == (t.first_step + len(t) == length)
        assert episode.whole == (len(t) == length)
        whole[t.env_index] += episode.whole
    keys = [(e.trajectory.env_index, e.trajectory.episode) for e in joined]
    if every == 1:  # one after another, and only a lane's last is not over
        cut = [e.trajectory.env_index for e in joined if not e.whole]
        assert len(set(keys)) == len(keys) and len(set(cut)) == len(cut)
        assert min(whole.values()) > 10
    else:
        assert whole[1] and not whole[0] and len(set(keys)) < len(keys)


def test_parts_of_two_runs_are_not_joined():
    """Two runs number their environments and episodes alike."""
    first = Buffer([part(0, 0, [1, 1], seed=0)])
    second = Buffer([part(0, 7, [1], "terminated", first_step=2)])
    assert [len(e.trajectory) for e in join_episodes([first, second])] == [2, 1]


@pytest.mark.parametrize("rewards", [[], [1.0], [1.0, 2.0, 3.0]])
def test_each_action_needs_a_reward(rewards):
    played = part(0, 0, [1.0, 2.0], "terminated")
    played.rewards = rewards
    with pytest.raises(DataError, match=f"trajectory 0: 2 actions and {len(rewards)} rewards"):
        common_source([Buffer([played], SPACES)])
