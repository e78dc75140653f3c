"""A VecEnv of Stable-Baselines3 as a Gymnasium vector environment."""

import gc

import gymnasium as gym
import numpy as np
import pytest

from tests.algos.control_envs import Steps
from textenv.algos import RolloutRunner
from textenv.errors import ConfigError, ConfigTypeError
from textenv.wrappers.sb3 import SB3Policy
from textenv.wrappers.sb3_vec_env import SB3VectorEnv

sb3 = pytest.importorskip("stable_baselines3")
torch = pytest.importorskip("torch")

from stable_baselines3.common.env_util import make_vec_env  # noqa: E402
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
CARTPOLE = "CartPole-v1"


def test_a_vec_env_gives_the_transitions_that_it_gives_alone():
    def make_venv():
        envs = make_vec_env(lambda: gym.make(CARTPOLE, max_episode_steps=15), 3, seed=4)
        return VecNormalize(envs)

    model = sb3.PPO("MlpPolicy", make_venv(), policy_kwargs={"net_arch": [8]}, seed=0, device="cpu")
    torch.manual_seed(2)
    rollout = RolloutRunner(
        SB3VectorEnv(make_venv()), SB3Policy(model), max_steps=120, seed=None
    ).collect()

    venv = make_venv()  # the same steps, by hand
    torch.manual_seed(2)
    observations = venv.reset()
    lanes = [[[]] for _ in range(3)]
    endings = []
    for _ in range(40):
        actions, _ = model.predict(observations)
        after, rewards, dones, infos = venv.step(actions)
        for i, lane in enumerate(lanes):
            lane[-1].append((observations[i], actions[i], float(rewards[i])))
            if dones[i]:
                endings.append((i, infos[i]["terminal_observation"], infos[i]))
                lane.append([])
        observations = after
    played = [[t for t in rollout if t.env_index == i] for i in range(3)]
    for lane, mine in zip(lanes, played):
        assert [len(episode) for episode in lane if episode] == [len(t) for t in mine]
        for episode, trajectory in zip(lane, mine):
            np.testing.assert_array_equal([e[0] for e in episode], trajectory.observations)
            np.testing.assert_array_equal([e[1] for e in episode], trajectory.actions)
            assert [e[2] for e in episode] == trajectory.rewards
    ended = [t for t in rollout if t.terminated or t.truncated]
    assert len(ended) == len(endings) and {t.truncated for t in ended} == {True, False}
    for i, last, info in endings:
        (trajectory,) = (t for t in ended if np.array_equal(t.final_observation, last))
        assert trajectory.env_index == i
        assert trajectory.truncated == info["TimeLimit.truncated"] != trajectory.terminated
        # Monitor counts the raw rewards, which are 1 per step.
        assert trajectory.infos[-1]["episode"]["r"] == len(trajectory)


def test_a_vec_env_is_left_open_until_it_is_closed():
    venv = DummyVecEnv([lambda: gym.make(CARTPOLE)])
    closed = []
    venv.close = lambda: closed.append(True)
    view = SB3VectorEnv(venv)
    view = SB3VectorEnv(venv)
    gc.collect()
    assert not closed
    view.close()
    assert closed


def test_a_vec_env_takes_seeds_and_says_what_it_does_not_take():
    view = SB3VectorEnv(make_vec_env(CARTPOLE, 2))
    observations, _ = view.reset(seed=7)
    for i in range(2):
        expected, _ = gym.make(CARTPOLE).reset(seed=7 + i)
        np.testing.assert_array_equal(observations[i], expected)
    with pytest.raises(ConfigError, match="one seed"):
        view.reset(seed=[1, 2])
    with pytest.raises(ConfigError, match="reset_mask"):
        view.reset(options={"reset_mask": np.ones(2, bool)})
    with pytest.raises(ConfigTypeError, match="takes a VecEnv"):
        SB3VectorEnv(gym.make_vec(CARTPOLE, 2))


def test_the_last_observation_is_not_that_of_the_next_episode():
    """Stable-Baselines3 resets before it gives the last observation out."""
    env = SB3VectorEnv(DummyVecEnv([lambda n=n: Steps(n, own=True) for n in (2, 3)]))
    policy = lambda observation: (np.ones((2, 2), np.int8), {})  # noqa: E731
    rollout = RolloutRunner(env, policy, max_steps=24, seed=None).collect()
    assert len(rollout) == 6 + 4
    for trajectory in rollout:
        count = range(len(trajectory) + 1)
        seen = [*trajectory.observations, trajectory.final_observation]
        assert [o.tolist() for o in seen] == [[t] for t in count]
        assert [info["list"] for info in trajectory.infos] == [[t] for t in count[1:]]
        assert [action.tolist() for action in trajectory.actions] == [[1, 1]] * len(trajectory)
