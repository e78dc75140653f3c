"""Policies are given what they declare, and their answers are checked."""

import pytest

from textenv.algos.episodes.policy_call import PolicyCall, declared
from textenv.errors import ConfigTypeError


def test_a_policy_gets_what_it_declares():
    seen = []

    def plain(observation):
        seen.append(observation)
        return 1, {}

    def greedy(observation, deterministic=False, seeds=None, infos=None):
        seen.append((observation, deterministic, seeds, infos))
        return 2, {"value": 0.5}

    assert PolicyCall(plain)("a", infos={"b": 1}, seeds=7) == (1, {})
    call = PolicyCall(greedy)
    assert call("c", infos={"d": 2}, episode_start=True) == (2, {"value": 0.5})
    call.deterministic = True
    call("e", seeds=3)
    assert seen == ["a", ("c", False, None, {"d": 2}), ("e", True, 3, None)]


def test_what_a_policy_says_of_itself():
    class Batched:
        batched = True

        def __call__(self, observation, deterministic=False):
            return observation, {}

        def values(self, observations):
            return [0.0] * len(observations)

    policy = Batched()
    call = PolicyCall(policy)
    assert call.batched and call.policy is policy and call.values([1, 2]) == [0.0, 0.0]
    call = PolicyCall(lambda observation: (0, {}))
    assert not call.batched and call.values is None


@pytest.mark.parametrize("answer", ["ab", ("a",), ("a", None), ["a", {}], ("a", {}, 1), None])
def test_other_answers_are_refused(answer):
    with pytest.raises(ConfigTypeError, match=r"must return \(action, extras\)"):
        PolicyCall(lambda observation: answer)("a")


def test_what_cannot_be_called_is_refused():
    with pytest.raises(ConfigTypeError, match="must be callable, got int"):
        PolicyCall(3)


def test_parameters_that_are_declared():
    def function(infos, *, seeds=None, other=1):
        pass

    assert declared(function, ("seeds", "context", "infos")) == ["seeds", "infos"]
    assert declared(min, ("seeds",)) == []
    assert declared(type, ("seeds",)) == []  # a builtin without a signature
