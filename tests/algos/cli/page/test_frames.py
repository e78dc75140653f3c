"""Frames are those of the recorded episode: each picture says where the environment stood."""

import base64
import io
import warnings

import gymnasium as gym
import numpy as np
import pytest
from matplotlib.image import imread

from textenv.algos import Buffer, Trajectory
from textenv.algos.cli.page.frames import MOST_FRAMES, render
from textenv.algos.episodes.trajectory import RolloutSource

ID = "TextenvTestsWalk-v0"


class Walk(gym.Env):
    """The place is the sum of the seed's number and the actions, and the picture's red."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = gym.spaces.Discrete(5)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def _seen(self):
        return np.array([self.place], np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(10))
        return self._seen(), {}

    def step(self, action):
        self.place += int(action)
        return self._seen(), 0.0, False, False, {}

    def render(self):
        return np.full((20, 500, 3), (self.place, 0, 0), np.uint8)


class Unpackaged(Walk):
    def render(self):
        raise gym.error.DependencyNotInstalled("pygame is not installed")


@pytest.fixture(autouse=True)
def registered():
    for name, kind in ((ID, Walk), ("Un" + ID, Unpackaged)):
        gym.register(name, kind, disable_env_checker=True)
    yield
    for name in (ID, "Un" + ID):
        del gym.registry[name]


def played(actions, seed, reward, env_id=ID):
    env = gym.make(env_id)
    first, _ = env.reset(seed=seed)
    after = [env.step(action)[0] for action in actions]
    return Trajectory(
        observations=[first, *after[:-1]], actions=list(actions), infos=[{}] * len(actions),
        rewards=[reward] * len(actions), final_observation=after[-1], truncated=True, seed=seed,
    )  # fmt: skip


def rollout(*trajectories, env_id=ID, **source):
    return Buffer(trajectories, RolloutSource(env_id=env_id, env_wrappers=[], **source))


def reds(frames):
    pictures = [imread(io.BytesIO(base64.b64decode(png)), format="png") for _, png in frames]
    assert all(picture.shape[1] <= 240 for picture in pictures)
    return [round(255 * float(picture[0, 0, 0])) for picture in pictures]


def test_each_frame_shows_the_place_after_its_step():
    episodes = [played([1, 2, 3], 0, 0.5), played([1], 1, 0.0), played([4, 4], 2, 1.0)]
    frames, why = render(rollout(*episodes))
    assert why == "" and sorted(frames) == [1, 2]  # the worst and the best
    for number, shown in frames.items():
        start = int(episodes[number].observations[0][0])
        expected = start + np.cumsum([0, *episodes[number].actions])
        assert [step for step, _ in shown] == list(range(len(expected)))
        assert reds(shown) == expected.tolist()


def test_of_a_long_episode_there_are_a_few_frames():
    frames, _ = render(rollout(played([1] * 100, 0, 1.0)))
    steps = [step for step, _ in frames[0]]
    assert len(steps) == MOST_FRAMES and (steps[0], steps[-1]) == (0, 100)


def test_no_frames_if_it_is_not_the_same_episode():
    other = played([1, 2], 0, 1.0)
    other.observations[1] = other.observations[1] + 0.5
    frames, why = render(rollout(other))
    assert frames == {} and why == f"{ID} has no frames here: played again, it goes another way"


def test_an_action_that_is_none_is_not_taken():
    wrong = played([1, 2], 0, 1.0)
    wrong.actions[1] = 7
    assert render(rollout(wrong))[0] == {}


def test_what_is_missing_is_said():
    frames, why = render(rollout(played([1], 0, 1.0, "Un" + ID), env_id="Un" + ID))
    assert frames == {} and why == f"Un{ID} has no frames here: pygame is not installed"


def test_a_file_does_not_decide_what_runs():
    """Neither settings, nor wrappers, nor an id that would import a module come from a file."""
    one = played([1], 0, 1.0)
    for source in (
        {"env_id": f"os:{ID}"},
        {"env_kwargs": {"render_mode": "human"}},
        {"env_id": None},
        {"env_id": "Unknown-v0"},
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert render(rollout(one, **{"env_id": ID} | source)) == ({}, "")
    wrapped = rollout(one)
    wrapped.source.env_wrappers = [{"name": "X", "entry_point": "os:system", "kwargs": None}]
    assert render(wrapped) == ({}, "")
    assert render(Buffer([one])) == ({}, "")


def test_an_episode_without_a_seed_cannot_be_played_again():
    one = played([1], 0, 1.0)
    one.seed = None
    assert render(rollout(one)) == ({}, "")
