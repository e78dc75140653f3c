"""Transitions, trajectories and buffers."""

import numpy as np
import pytest

from textenv.algos import Buffer, Trajectory
from textenv.algos.episodes.trajectory import RolloutSource, policy_tokens
from textenv.errors import ConfigTypeError


def three_steps(**flags):
    return Trajectory(
        observations=["a", "b", "c"],
        actions=[1, 2, 3],
        rewards=[0.5, 0.0, 1.0],
        infos=[{}, {"is_correct": True}, {"is_correct": 0}],
        final_observation="d",
        **flags,
    )


@pytest.mark.parametrize("flags", [{}, {"terminated": True}, {"truncated": True}])
def test_transitions_follow_each_other_and_the_last_has_the_flags(flags):
    steps = three_steps(**flags).transitions
    assert [(s.observation, s.action, s.reward, s.next_observation) for s in steps] == [
        ("a", 1, 0.5, "b"),
        ("b", 2, 0.0, "c"),
        ("c", 3, 1.0, "d"),
    ]
    ended = [(s.terminated, s.truncated) for s in steps]
    last = flags.get("terminated", False), flags.get("truncated", False)
    assert ended == [(False, False), (False, False), last]
    assert Trajectory().transitions == []


def test_what_was_not_recorded_is_missing_in_transitions():
    steps = Trajectory(actions=[1, 2], final_observation="end", terminated=True).transitions
    assert steps == [
        (None, 1, 0.0, None, False, False, {}),
        (None, 2, 0.0, "end", True, False, {}),
    ]


def test_the_verdict_is_that_of_the_last_answer():
    assert three_steps().is_correct is False
    assert Trajectory(infos=[{"is_correct": False}, {"is_correct": np.True_}]).is_correct is True
    assert Trajectory(infos=[{"is_correct": True}, {}]).is_correct is None
    assert Trajectory().is_correct is None


def test_trajectories_are_compared_by_value_arrays_within_included():
    def make(x=1.0, kept=3):
        return Trajectory(
            observations=[{"a": np.array([x, 2.0]), "b": (np.array([1]), "text")}],
            support=[np.array([1, kept]), None],
        )

    assert make() == make()
    assert make() != make(x=1.5) and make() != make(kept=4)
    assert make() != Trajectory(observations=make().observations)
    assert make() != "text"


def test_a_buffer_holds_trajectories_and_nothing_else():
    buffer = Buffer([three_steps(), Trajectory()])
    assert len(buffer) == 2 and buffer.num_transitions == 3
    assert list(buffer) == buffer.trajectories == [three_steps(), Trajectory()]
    buffer.trajectories.clear()  # a copy
    assert len(buffer) == 2
    with pytest.raises(ConfigTypeError, match="got dict"):
        buffer.add({})
    assert buffer == Buffer([three_steps(), Trajectory()])
    assert buffer != Buffer([Trajectory(), three_steps()])
    assert buffer != Buffer(buffer, RolloutSource(seed=1))
    with pytest.raises(TypeError, match="unhashable"):
        hash(buffer)
    buffer.clear()
    assert len(buffer) == buffer.num_transitions == 0


def test_tokens_that_branches_share_count_once():
    chain = Trajectory(token_mask=[1, 1, 0, 1])
    branch = Trajectory(token_mask=[1, 1, 0, 1, 1], parent=0, branch_at=3)
    assert policy_tokens([chain, branch]) == 3 + 2
    assert policy_tokens([Trajectory()]) == 0
    assert (chain.own_from, branch.own_from) == (0, 3)
