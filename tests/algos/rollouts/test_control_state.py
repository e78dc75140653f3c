"""Rollouts of control that go on from a state, in new environments."""

from __future__ import annotations

import json
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from textenv.algos import RolloutRunner
from textenv.algos.storage.checkpoints.state import State
from textenv.algos.storage.codec import encode_rollout
from textenv.errors import ConfigError


class Walk(gym.Env):
    """A walk of 2 to 9 steps; what it says beside the observation is of every kind."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left, self.at = int(self.np_random.integers(2, 10)), np.float32(0)
        return self._seen(), {"start": self.left, "odd": {1: (object, np.nan)}}

    def step(self, action):
        self.left -= 1
        self.at += np.float32(self.np_random.normal()) * action
        mask = self.np_random.integers(0, 2, 3, np.int8)
        info = {"action_mask": mask, "left": np.int64(self.left), "names": ("a", ["b"])}
        return self._seen(), float(self.at), self.left == 0, False, info

    def _seen(self):
        return np.array([self.at, self.left], np.float32)


def act(observation, infos):
    """Actions that follow from the observation and from the mask."""
    rows = np.atleast_2d(observation)
    infos = [infos] if observation.ndim == 1 else infos
    masks = [np.sum(info.get("action_mask", 0)) for info in infos]
    actions = (np.abs(rows).sum(axis=1) * 7 + masks).astype(int) % 3
    extras = {"value": rows[:, 0], "logprob": rows[:, 1] / 3}
    if observation.ndim == 1:
        return actions[0], {name: value[0] for name, value in extras.items()}
    return actions, extras


act.batched = True


def make(mode, kind=Walk):
    env = kind() if mode is None else SyncVectorEnv([kind] * 3, autoreset_mode=mode)
    return RolloutRunner(env, act, max_steps=18, seed=2, resumable=True)


def through_a_file(state):
    """The state as it comes back from JSON."""
    return State(state.arrays, json.loads(json.dumps(dict(state.values))))


@pytest.mark.parametrize("mode", [None, *AutoresetMode])
def test_rollouts_are_those_of_a_runner_that_was_not_stopped(mode):
    runner = make(mode)
    states, rollouts = [runner.episodes.state()], []
    for version in range(9):
        runner.policy_version = version
        rollouts.append(runner.collect())
        states.append(runner.episodes.state())
    cut = [not (t.terminated or t.truncated) for rollout in rollouts for t in rollout]
    assert sum(cut) > 5 and not all(cut)
    for done, state in enumerate(states[:-1]):
        again = make(mode)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            again.episodes.load_state(through_a_file(state))
        for version, expected in list(enumerate(rollouts))[done:]:
            again.policy_version = version
            found = again.collect()
            assert encode_rollout(found) == encode_rollout(expected)  # as files have them


class Moody(Walk):
    """Starts elsewhere each time that one is made."""

    made = 0

    def __init__(self):
        Moody.made += 1
        self.mood = Moody.made

    def _seen(self):
        return super()._seen() + self.mood


@pytest.mark.parametrize("mode", [None, *AutoresetMode])
def test_environments_that_do_not_come_back_begin_new_episodes(mode):
    runner = make(mode, Moody)
    before = [runner.collect() for _ in range(3)]
    again = make(mode, Moody)
    with pytest.warns(UserWarning, match="cannot go on, and new ones begin: .*it shows array"):
        again.episodes.load_state(runner.episodes.state())
    rollout = again.collect()
    assert rollout.num_transitions == 18
    width = 1 if mode is None else 3
    for lane in range(width):
        last = max(t.episode for r in before for t in r if t.env_index == lane)
        new = [t for t in rollout if t.env_index == lane and t.episode > last]
        assert [t.first_step for t in new] == [0] * len(new)
        assert new[0].seed not in {None, *(t.seed for r in before for t in r)}
        assert [t.episode for t in new] == list(range(new[0].episode, new[0].episode + len(new)))


def test_other_environments_are_refused():
    state = make(AutoresetMode.SAME_STEP).episodes.state()
    make(None).episodes.load_state(state)  # nothing was played yet
    runner = make(AutoresetMode.SAME_STEP)
    runner.collect()
    with pytest.raises(ConfigError, match="of 3 environments; there are 1 here"):
        make(None).episodes.load_state(runner.episodes.state())
