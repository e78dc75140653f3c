"""Environments side by side, in every way in which Gymnasium resets them."""

import copy

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from textenv.algos.episodes.stages import SingleStage, VectorStage, sub_info
from textenv.spaces import UnicodeText
from textenv.wrappers import DictStep


class Count(gym.Env):
    """Counts its steps; lane i ends its first episode after i + 2 steps, later ones after 3."""

    observation_space = gym.spaces.Box(-1, 100, (2,))
    action_space = gym.spaces.Discrete(5)

    def __init__(self, lane):
        self.lane, self.episode = lane, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.episode = 0, self.episode + 1
        return self._seen(), {"episode": self.episode, "seed": seed}

    def _seen(self):
        return np.float32([self.episode, self.steps])

    def step(self, action):
        self.steps += 1
        ended = self.steps == (self.lane + 2 if self.episode == 1 else 3)
        info = {"action": int(action), "nested": {"steps": self.steps}}
        return self._seen(), float(self.steps), ended, False, info


def log_of(stage, steps, lanes):
    """What each lane saw, one line for each transition and each start."""
    log = [[("start", *map(float, start["observation"]))] for start in stage.reset(seed=7)]
    for t in range(steps):
        batch = np.full(lanes, t % 5)
        for i, (step, start) in enumerate(stage.step(batch if lanes > 1 else t % 5)):
            if step is not None:
                assert step["info"]["action"] == t % 5
                assert step["info"]["nested"] == {"steps": step["observation"][1]}
                row = (*map(float, step["observation"]), step["reward"], step["terminated"])
                log[i].append(row)
            if start is not None:
                assert start["info"]["episode"] == start["observation"][0]
                log[i].append(("start", *map(float, start["observation"])))
    return log


def expected(lane, rows):
    """The same by hand."""
    log, episode = [], 0
    while len(log) < rows:
        episode += 1
        log.append(("start", episode, 0))
        last = lane + 2 if episode == 1 else 3
        log += [(episode, t, t, t == last) for t in range(1, last + 1)]
    return log[:rows]


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_lanes_of_a_vector_see_whole_episodes(mode):
    env = SyncVectorEnv([lambda i=i: Count(i) for i in range(3)], autoreset_mode=mode)
    stage = VectorStage(DictStep(env))
    assert stage.num_envs == 3 and stage.mode == mode
    for lane, log in enumerate(log_of(stage, 12, 3)):
        # Resets of the next step take the place of a transition.
        assert len(log) >= 12
        assert log == expected(lane, len(log))


def test_a_single_environment_sees_the_same():
    (log,) = log_of(SingleStage(DictStep(Count(0))), 12, 1)
    assert log == expected(0, len(log)) and len(log) > 12


def test_every_lane_can_have_a_seed_of_its_own():
    env = SyncVectorEnv([lambda i=i: Count(i) for i in range(3)])
    starts = VectorStage(DictStep(env)).reset([4, 5, 6])
    assert [start["info"]["seed"] for start in starts] == [4, 5, 6]


def test_observations_are_copies():
    env = SyncVectorEnv([lambda i=i: Count(i) for i in range(2)], copy=False)
    stage = VectorStage(DictStep(env))
    first = stage.reset(0)[0]["observation"]
    stage.step(np.zeros(2, int))
    assert first[1] == 0


def test_infos_are_those_of_the_lanes_that_have_them():
    infos = {
        "number": np.array([3, 0, 5]),
        "_number": np.array([True, False, True]),
        "nested": {
            "word": np.array(["a", "b", "c"], object),
            "_word": np.array([True, True, False]),
        },
        "_nested": np.array([True, True, True]),
        "_private": np.array([1, 2, 3]),  # no mask: there is no "private"
    }
    assert [sub_info(infos, i) for i in range(3)] == [
        {"number": 3, "nested": {"word": "a"}, "_private": 1},
        {"nested": {"word": "b"}, "_private": 2},
        {"number": 5, "nested": {}, "_private": 3},
    ]
    assert type(sub_info(infos, 0)["number"]) is int


TEXT = UnicodeText(9)
SPACES = [
    spaces.Box(0, 9, (2, 3)),
    spaces.Discrete(5, start=2),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiBinary(3),
    TEXT,
    spaces.Tuple([TEXT, TEXT]),
    spaces.Tuple([TEXT, spaces.Box(0, 1, (2,)), spaces.Discrete(4)]),
    spaces.Dict(a=spaces.Tuple([spaces.Discrete(3), TEXT]), b=spaces.Box(0, 1)),
    spaces.Sequence(spaces.Dict(role=TEXT, content=TEXT)),
    spaces.Dict(chat=spaces.Sequence(TEXT), n=spaces.Discrete(3)),
    spaces.Sequence(spaces.Box(0, 1, (2,)), stack=True),
    spaces.Graph(spaces.Box(0, 1, (2,)), None),
    spaces.OneOf([spaces.Discrete(3), TEXT]),
]


class Shown(gym.Env):
    """Observes members of a space, and asserts that actions are the one that it asked for."""

    def __init__(self, space):
        self.observation_space = self.action_space = space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.shown = [self.observation_space.sample()]
        return self.shown[-1], {}

    def step(self, action):
        assert data_equivalence(action, self.shown[-1])
        self.shown.append(self.observation_space.sample())
        return self.shown[-1], 0.0, False, False, {}


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_lanes_are_cut_by_the_space(space):
    """Each lane is given what its environment showed, and its action goes back to it."""
    env = SyncVectorEnv([lambda: Shown(copy.deepcopy(space)) for _ in range(2)])
    stage = VectorStage(DictStep(env))
    seen = [[start["observation"]] for start in stage.reset([3, 4])]
    for _ in range(4):
        batch = stage.observation
        actions = stage.actions(batch)
        for lane, (step, _) in enumerate(stage.step(batch)):
            assert data_equivalence(actions[lane], seen[lane][-1])
            seen[lane].append(step["observation"])
    for lane, one in enumerate(env.envs):
        assert data_equivalence(seen[lane], one.shown)


class OddKeys(Count):
    """Infos with keys that are not text, which only some lanes have."""

    def step(self, action):
        *values, info = super().step(action)
        odd = {7: "seven", (1, 2): {3: self.steps}} if self.lane == 1 else {8: 0.5}
        return *values, info | odd


@pytest.mark.parametrize("mode", AutoresetMode)
def test_keys_of_infos_that_are_not_text(mode):
    vector = SyncVectorEnv([lambda i=i: OddKeys(i) for i in range(2)], autoreset_mode=mode)
    stage = VectorStage(DictStep(vector))
    stage.reset(None)
    seen = [[], []]
    for _ in range(6):
        for lane, (step, _) in enumerate(stage.step(np.zeros(2, int))):
            if step is not None:
                info = step["info"]
                seen[lane].append({key: info[key] for key in info if not isinstance(key, str)})
    assert len(seen[0]) >= 4 and all(info == {8: 0.5} for info in seen[0])
    assert seen[1][:3] == [{7: "seven", (1, 2): {3: t}} for t in (1, 2, 3)]
