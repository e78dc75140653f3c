"""Environments that are brought back to the middle of an episode."""

import random

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import (
    DelayObservation,
    FrameStackObservation,
    NormalizeObservation,
    NormalizeReward,
    RecordEpisodeStatistics,
    StickyAction,
    TimeLimit,
)
from gymnasium.wrappers import vector as vectors

from textenv.algos.episodes.replaying import EpisodeLog, recall, remember, same
from textenv.algos.episodes.stages import SingleStage, VectorStage
from textenv.algos.storage.checkpoints.trees import from_state, to_state
from textenv.errors import ConfigError
from textenv.wrappers import DictStep


class Drawn(gym.Env):
    """Observes what it draws, from its own generators and from Gymnasium's."""

    observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float64)
    action_space = spaces.Discrete(2)
    resets = 0  # of all of them

    def __init__(self, seed=0):
        self.own, self.old = np.random.default_rng(seed), np.random.RandomState(seed)
        self.python = random.Random(seed)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        type(self).resets += 1
        self.total = 0.0
        return self._seen(0), {}

    def step(self, action):
        self.total += action
        return self._seen(action), self.total, self.total > 9, False, {}

    def _seen(self, action):
        drawn = self.own.random(), self.old.random(), self.python.random(), self.np_random.random()
        return np.array(drawn) * (self.total + 1)


def wrapped():
    env = RecordEpisodeStatistics(StickyAction(gym.make("CartPole-v1"), 0.3))
    return NormalizeReward(NormalizeObservation(TimeLimit(env, 30)))


def stacked():
    env = FrameStackObservation(NormalizeObservation(gym.make("Pendulum-v1")), 3)
    return DelayObservation(env, 2)


def vector(mode, make=wrapped):
    env = SyncVectorEnv([make] * 3, autoreset_mode=mode)
    return vectors.RecordEpisodeStatistics(env, stats_key="of_the_vector")


STAGES = {
    "alone": lambda: SingleStage(DictStep(wrapped()), True),
    "stacked": lambda: SingleStage(DictStep(stacked()), True),
    "generators": lambda: SingleStage(DictStep(Drawn()), True),
    **{m.name: lambda m=m: VectorStage(DictStep(vector(m)), True) for m in AutoresetMode},
    "normalised": lambda: VectorStage(
        DictStep(vectors.NormalizeObservation(vector(AutoresetMode.NEXT_STEP, Drawn))), True
    ),
}


def play(stage, actions):
    """All that a stage says."""
    rows = []
    for action in actions:
        for step, start in stage.step(action):
            told = step and [step[key] for key in ("observation", "reward", "terminated")]
            counted = step and step["info"].get("of_the_vector", {}).get("r")
            rows.append([told, counted, start and start["observation"]])
    return [*rows, stage.observation]


@pytest.mark.parametrize("make", STAGES.values(), ids=STAGES.keys())
@pytest.mark.parametrize("steps", [0, 1, 17, 64, 93])
def test_an_environment_goes_on_as_the_one_that_was_not_stopped(make, steps):
    stage = make()
    space = stage.env._env.action_space if stage.num_envs == 1 else stage.env.action_space
    space.seed(3)
    actions = [space.sample() for _ in range(160)]
    stage.reset(5)
    play(stage, actions[:steps])
    state = to_state(stage.state())
    expected = play(stage, actions[steps:])
    again = make()
    assert again.load_state(from_state(state)) == ""
    assert same(play(again, actions[steps:]), expected)


class Restless(Drawn):
    """Does something else after its first reset."""

    first = True

    def reset(self, *, seed=None, options=None):
        self.differs = not Restless.first
        Restless.first = False
        return super().reset(seed=seed)


class Shows(Restless):
    def _seen(self, action):
        return super()._seen(action) + self.differs


class Draws(Restless):
    def step(self, action):
        found = super().step(action)
        if self.differs and self.total == 3:
            self.np_random.random()
        return found


class Ends(Restless):
    def step(self, action):
        *found, _, truncated, info = super().step(action)
        return *found, self.differs, truncated, info


class Raises(Restless):
    def step(self, action):
        if self.differs:
            raise RuntimeError("no more of this")
        return super().step(action)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Shows, "it shows array"),
        (Draws, "it drew other random numbers"),
        (Ends, "its episode ended after 1 of 3 steps"),
        (Raises, "it raised RuntimeError.'no more of this'"),
    ],
)
def test_an_environment_that_does_not_come_back_is_told(kind, message):
    Restless.first = True
    log = EpisodeLog(kind())
    log.reset(seed=1)
    for _ in range(3):
        log.step(1)
    assert log.replay(log.state()).startswith(message.replace(".'", "('"))


def test_if_one_of_several_does_not_come_back_all_begin_anew():
    Restless.first = True
    stage = VectorStage(DictStep(SyncVectorEnv([Drawn, Shows])), True)
    stage.reset(0)
    resets = Drawn.resets, Shows.resets
    assert stage.load_state(stage.state()).startswith("environment 1: it shows")
    assert (Drawn.resets, Shows.resets) == (resets[0] + 1, resets[1] + 1)
    stage.reset(7)  # which resets both: none of them is told to stay
    assert (Drawn.resets, Shows.resets) == (resets[0] + 2, resets[1] + 2)


def test_statistics_outlast_an_episode_that_does_not_come_back():
    def make():
        return NormalizeObservation(Shows())

    Restless.first = True
    env = make()
    log = EpisodeLog(env)
    log.reset(seed=0)
    for _ in range(5):
        log.step(0)
    other = EpisodeLog(again := make())
    assert other.replay(log.state()) != ""
    other.give_up(log.state())
    assert again.obs_rms.count == env.obs_rms.count == 6 + 1e-4
    assert np.array_equal(again.obs_rms.mean, env.obs_rms.mean)


def test_other_wrappers_are_refused():
    state = remember(NormalizeObservation(Drawn()))
    with pytest.raises(ConfigError, match="of NormalizeObservation, Drawn; this one has Drawn:"):
        recall(Drawn(), state)


def test_another_number_of_environments_is_refused():
    stage, three = (VectorStage(DictStep(SyncVectorEnv([Drawn] * count)), True) for count in (2, 3))
    stage.reset(0)
    with pytest.raises(ConfigError, match="of 2 environments; there are 3 here"):
        three.load_state(stage.state())


def test_environments_in_other_processes_or_made_of_one_piece_begin_anew():
    def make():
        return VectorStage(
            DictStep(gym.make_vec("CartPole-v1", 2, vectorization_mode="vector_entry_point")), True
        )

    stage = make()
    stage.reset(0)
    assert "does not step them in this process" in make().load_state(stage.state())


def test_what_is_remembered_does_not_change_later():
    env = NormalizeObservation(Drawn())
    env.reset(seed=0)
    before = remember(env)
    mean = env.obs_rms.mean.copy()
    env.step(1)
    recall(env, before)
    assert np.array_equal(env.obs_rms.mean, mean)


def test_a_stage_that_is_not_resumable_records_nothing():
    env = Drawn()
    assert SingleStage(env).env is env
    assert not VectorStage(DictStep(SyncVectorEnv([Drawn])))._logged


def test_equal_to_the_bit():
    nan = {"a": [np.array([np.nan, 1.0]), (float("nan"), "x")]}
    assert same(nan, {"a": [np.array([np.nan, 1.0]), (float("nan"), "x")]})
    assert not same(nan, {"a": [np.array([np.nan, 1.5]), (float("nan"), "x")]})
    assert not same(np.float32(1), np.float64(1)) and not same([1], [1, 2]) and not same("a", "b")
