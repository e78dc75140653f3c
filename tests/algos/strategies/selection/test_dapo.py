"""Dynamic sampling against a loop of its own, and what happens at the cap."""

from __future__ import annotations

import math
import warnings

import gymnasium as gym
import pytest

from textenv.algos import RolloutRunner, create_strategy
from textenv.algos.strategies.selection.dapo import DynamicSampling
from textenv.errors import ConfigError, ConfigTypeError, RolloutError

PROMPTS = [f"{i}+0=" for i in range(30)]


class Solver:
    """Right always for some numbers, never for others, and every second time for the rest.

    It records as many tokens as it writes characters.
    """

    def __init__(self, right=(), mixed=()):
        self.right, self.mixed, self.count = set(right), set(mixed), 0

    def __call__(self, observation):
        number = int(observation.partition("+")[0])
        self.count += 1
        right = number in self.right or (number in self.mixed and self.count % 2)
        answer = str(number) if right else "no"
        count = len(answer)
        return answer, {
            "prompt_ids": [0] * 7,
            "token_ids": [1] * count,
            "token_logprobs": [-1.0] * count,
        }


def make_runner(policy, parts, seed=3, groups=6):
    env = gym.make(
        "TextGen-v0",
        prompts=PROMPTS,
        examples=[{"answer": str(i)} for i in range(30)],
        reward_fn="exact_match",
    )
    strategy = create_strategy("grpo", num_generations=4, parts=parts)
    return RolloutRunner(env, policy, strategy, max_steps=groups * 4, seed=seed)


def number(trajectory):
    return trajectory.reset_info["example_id"]


def test_a_rollout_is_filled_as_a_plain_loop_would_fill_it():
    mixed = {i for i in range(30) if i % 3 == 1}
    runner = make_runner(Solver(range(0, 30, 3), mixed), ["dapo:cap=20"])
    plain = make_runner(Solver(), [])  # only to draw the same prompts
    for _ in range(3):
        expected, drawn, rounds = [], [], 0
        while len(expected) < 6:
            starts = plain.plan(6 - len(expected))[::4]
            drawn += [s.options["example_id"] for s in starts]
            expected += [i for i in drawn[-len(starts) :] if i in mixed]
            rounds += 1
        rollout = runner.collect()
        assert [number(t) for t in rollout.trajectories[::4]] == expected
        assert len(rollout) == 24
        assert [t.total_reward for t in rollout][:4] in ([1, 0, 1, 0], [0, 1, 0, 1])
        counts = rollout.counts
        assert (counts.rounds, counts.groups) == (rounds, len(drawn))
        assert counts.groups_uniform == len(drawn) - 6
        assert counts.groups_missing == 0
        assert [number(t) for t in rollout.played[::4]] == drawn
        assert len({t.group_id for t in rollout.played}) == len(drawn)
    assert rounds > 1


def test_tokens_are_counted():
    runner = make_runner(Solver(right=range(30)), ["dapo:cap=3"], groups=2)
    with pytest.warns(UserWarning, match="dynamic sampling"):
        rollout = runner.collect()
    counts = rollout.counts
    tokens = sum(len(t.actions[0]) for t in rollout.played)
    assert counts.tokens_generated == counts.tokens_discarded == tokens > 0
    assert counts.tokens_trained == 0
    assert counts.tokens_computed == tokens + 3 * 2 * 7  # each prompt once a group
    metrics = counts.metrics()
    assert metrics["strategy/frac_groups_uniform"] == 1
    assert metrics["strategy/groups_missing"] == 2
    assert metrics["strategy/tokens_generated"] == tokens
    assert {type(value) for value in metrics.values()} == {float}


@pytest.mark.parametrize("cap", [1, 3])
def test_a_task_that_is_always_solved_ends_at_the_cap_and_says_so(cap):
    policy = Solver(right=range(30))
    runner = make_runner(policy, [f"dapo:cap={cap}"])
    words = rf"ended at its cap \({cap}\) with 0 of 6 groups"
    with pytest.warns(UserWarning, match=words):
        rollout = runner.collect()
    assert len(rollout) == 0
    assert policy.count == cap * 6 * 4
    assert rollout.counts.rounds == cap
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        assert runner.collect().counts.groups_missing == 6
    stopping = make_runner(Solver(right=range(30)), [f"dapo:cap={cap},at_cap=raise"])
    with pytest.raises(RolloutError, match=words):
        stopping.collect()


def test_less_than_a_whole_rollout_is_trained_on():
    runner = make_runner(Solver(mixed=[4, 5]), ["dapo:cap=2"], groups=15)
    with pytest.warns(UserWarning, match="with 2 of 15 groups"):
        rollout = runner.collect()  # 15 + 15 - (those found first) prompts of an epoch of 30
    assert {number(t) for t in rollout} == {4, 5}
    assert rollout.counts.groups_missing == 13


@pytest.mark.filterwarnings("ignore:dynamic sampling ended")
def test_oversampling_draws_as_many_as_the_last_share_of_groups_lets_expect():
    mixed = {i for i in range(30) if i % 3 == 1}
    runner = make_runner(Solver(range(0, 30, 3), mixed), ["dapo:cap=4,oversample=true"])
    plain = make_runner(Solver(), [])  # only to draw the same prompts
    share, surplus = 1.0, 0
    for _ in range(6):
        found, drawn, rounds = [], [], 0
        while len(found) < 6 and rounds < 4 and len(drawn) < 24:
            asked = min(math.ceil((6 - len(found)) / max(share, 0.25)), 24 - len(drawn))
            drawn += [s.options["example_id"] for s in plain.plan(asked)[::4]]
            found = [i for i in drawn if i in mixed]
            rounds += 1
        share = len(found) / len(drawn)
        surplus += max(0, len(found) - 6)
        rollout = runner.collect()
        assert [number(t) for t in rollout.trajectories[::4]] == found[:6]
        assert (rollout.counts.rounds, rollout.counts.groups) == (rounds, len(drawn))
        assert rollout.counts.groups_missing == max(0, 6 - len(found))
    assert surplus > 0  # which is left out


def test_oversampling_plays_all_that_the_cap_allows_in_one_round_if_nothing_has_information():
    policy = Solver(right=range(30))
    runner = make_runner(policy, ["dapo:cap=3,oversample=true"])
    with pytest.warns(UserWarning, match="with 0 of 6 groups"):
        first, second = runner.collect().counts, runner.collect().counts
    assert (first.rounds, first.groups) == (3, 18)  # nothing is known yet
    assert (second.rounds, second.groups) == (1, 18)
    policy.right, policy.mixed = set(), set(range(30))
    third, fourth = runner.collect(), runner.collect()
    assert (third.counts.groups, len(third)) == (18, 24)  # the surplus is left out
    assert (fourth.counts.groups, len(fourth)) == (6, 24)


def test_bad_settings_are_refused():
    with pytest.raises(ConfigError, match="'dapo:cap=0': cap must be at least 1, got 0"):
        create_strategy("grpo", parts=["dapo:cap=0"])
    with pytest.raises(ConfigError, match=r"at_cap must be .*'stop'"):
        create_strategy("grpo", parts=["dapo:at_cap=stop"])
    with pytest.raises(ConfigTypeError, match="cap must be int"):
        DynamicSampling(cap=2.5)
    with pytest.raises(ConfigError, match="tolerance must be at least 0"):
        DynamicSampling(tolerance=-1.0)
