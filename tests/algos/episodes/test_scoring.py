"""Reward functions that fail: an error with all details, an unscored episode, or a given reward."""

from __future__ import annotations

import json
import pickle

import pytest

from textenv.algos.episodes.episode import Lane
from textenv.algos.episodes.policy_call import PolicyCall
from textenv.algos.episodes.scoring import (
    Scored,
    Scoring,
    check_on_error,
    count_failed,
    has_failed,
    kept_for_inspection,
)
from textenv.algos.rollouts.player import TextPlayer
from textenv.errors import ConfigError, RewardError, RewardTimeoutError


class Env:
    """Steps with a given reward, or raises it."""

    def __init__(self, reward):
        self.reward, self.steps = reward, 0

    def step(self, action):
        self.steps += 1
        if isinstance(self.reward, Exception):
            raise self.reward
        observation = f"1+1={action}"
        return {
            "observation": observation,
            "reward": self.reward,
            "terminated": True,
            "truncated": False,
            "info": {},
        }


def step(scoring, env, lane, action):
    """A step as a player takes it."""
    player = TextPlayer(env, None, PolicyCall(lambda observation: ("", {})), 1, {})
    player.scoring = scoring
    return player._step([lane], {0: action})[0]


def make_lane():
    start = {"observation": "1+1=", "info": {"example_id": 5}}
    return Lane(start, policy_version=0, seed=1, noise=77, group_id=0)


FAILURES = [RewardError("it raised"), RewardTimeoutError("it hung"), float("nan"), float("inf")]


@pytest.mark.parametrize("reward", FAILURES, ids=["raise", "hang", "nan", "inf"])
def test_a_failure_is_handled_as_configured(reward):
    message = str(reward) if isinstance(reward, Exception) else "must be a finite number"
    lane = make_lane()
    with pytest.raises(RewardError, match=message) as caught:
        step(Scoring("fail"), Env(reward), lane, "3")
    details = caught.value.details
    assert details["prompt"] == "1+1=" and details["completion"] == "3"
    assert details["reset_info"] == {"example_id": 5} and message in details["error"]
    assert "Traceback" in details["traceback"]
    assert pickle.loads(pickle.dumps(caught.value)).details == details  # from a worker

    for on_error, value in [("skip", 0.0), (-1.5, -1.5), (0, 0.0)]:
        lane = make_lane()
        ended = step(Scoring(on_error), Env(reward), lane, "3")
        lane.record("3", {}, ended)
        trajectory = lane.trajectory
        assert lane.ended and trajectory.rewards == [value]
        assert trajectory.is_scored == (on_error != "skip")
        assert trajectory.final_observation == "1+1=3"
        assert message in trajectory.infos[0]["reward_error"] and has_failed(trajectory)
        assert count_failed([trajectory, make_lane().trajectory, trajectory]) == 2


def test_what_succeeds_is_passed_on():
    for on_error in ("fail", "skip", 3.0):
        env = Env(0.25)
        assert step(Scoring(on_error), env, make_lane(), "2")["reward"] == 0.25
        assert env.steps == 1


def test_errors_that_are_not_of_a_reward_are_raised():
    with pytest.raises(KeyError):
        step(Scoring("skip"), Env(KeyError("a bug")), make_lane(), "2")


def test_what_is_scored_is_noted_before_and_can_be_refused():
    noted, scoring, env = [], Scoring(0.5), Env(1.0)
    scoring.note = noted.append
    scored = Scored(77, "1+1=", "2")
    assert step(scoring, env, make_lane(), "2")["reward"] == 1.0
    assert noted == [scored, None]
    scoring.refused = {scored: "it ended two workers"}
    ended = step(scoring, env, make_lane(), "2")
    assert ended["reward"] == 0.5 and ended["info"]["reward_error"] == "it ended two workers"
    assert env.steps == 1 and noted == [scored, None, None]  # not scored again
    assert step(scoring, env, make_lane(), "3")["reward"] == 1.0


@pytest.mark.parametrize("value", ["fail", "skip", 0, -2.5])
def test_settings(value):
    check_on_error(value)


@pytest.mark.parametrize("value", ["stop", "", True, None, float("nan"), float("inf")])
def test_bad_settings(value):
    with pytest.raises(ConfigError, match="on_reward_error must be 'fail', 'skip' or a reward"):
        Scoring(value)


def test_the_prompt_and_the_completion_are_kept(tmp_path):
    folder = tmp_path / "run"

    def fail(folder):
        with kept_for_inspection(folder):
            step(Scoring("fail"), Env(RewardError("it raised")), make_lane(), "3 \ud800")

    with pytest.raises(RewardError, match=r"it raised; the whole prompt .*reward_error\.json"):
        fail(folder)
    kept = json.loads((folder / "reward_error.json").read_text())
    assert kept["prompt"] == "1+1=" and kept["completion"] == "3 \ud800"
    with pytest.raises(RewardError, match=r"it raised$"):
        fail(None)
    (tmp_path / "file").touch()
    with pytest.raises(RewardError, match=r"it raised; .* could not be written"):
        fail(tmp_path / "file")
    with pytest.raises(RewardError, match=r"no details$"), kept_for_inspection(folder):
        raise RewardError("no details")
