"""Strategies from strings, parts of one's own, what is refused, and state that goes on equally."""

from __future__ import annotations

import copy
import json
import multiprocessing
from dataclasses import dataclass, field
from functools import partial

import gymnasium as gym
import pytest

from tests.algos.shared import SUMS, make_env, make_policy
from textenv.algos import RolloutCoordinator, RolloutRunner, create_strategy
from textenv.algos.strategies import Selection, make_part
from textenv.errors import ConfigError, ConfigTypeError, DataError

make_sums = partial(make_env, prompts=SUMS)


def test_parts_fill_their_slots_in_order():
    strategy = create_strategy("grpo", num_generations=6, parts=["drop", "uniform", "pods:keep=2"])
    assert [part.name for part in strategy.selection] == ["drop", "pods"]
    assert strategy.prompts.name == "uniform"
    assert [p.title for p in create_strategy("grpo", parts=["pods:keep=3"]).parts] == [
        "pods:keep=3"
    ]
    assert create_strategy("grpo").parts == create_strategy("ppo").parts == []
    assert create_strategy("grpo") == create_strategy("grpo")


def test_objects_of_another_kind_are_refused():
    with pytest.raises(ConfigTypeError, match=r"derive from one of Prompts.*; got 3"):
        create_strategy("grpo", parts=[3])
    with pytest.raises(ConfigTypeError, match="parts must be a list of parts, got the text 'dapo'"):
        create_strategy("grpo", parts="dapo")
    with pytest.raises(ConfigTypeError, match="selection takes parts of kind Selection, got"):
        create_strategy("grpo", selection=(make_part("greso"),))
    with pytest.raises(ConfigError, match="selection given twice"):
        create_strategy("grpo", parts=["dapo"], selection=(make_part("pods"),))


def test_control_has_no_groups_to_select_from():
    strategy = create_strategy("grpo", parts=["dapo"])
    with pytest.raises(ConfigError, match=r"dapo:cap=4.*the actions of .*CartPole.* are not text"):
        RolloutRunner(gym.make("CartPole-v1"), lambda obs: (0, {}), strategy)


# --- state --------------------------------------------------------------------------------------


@dataclass
class Alternate(Selection):
    """Keeps every second group that it ever sees."""

    offset: int = 0
    _seen: int = field(default=0, init=False)

    def prepare(self, setup):
        self._seen = self.offset

    def select(self, groups):
        first, self._seen = self._seen, self._seen + len(groups)
        return [group for i, group in enumerate(groups) if (first + i) % 2 == 0]

    def state(self):
        return {"seen": self._seen}

    def load_state(self, state):
        self._seen = state["seen"]


EVERYTHING = [
    ["uniform", Alternate()],
    ["greso", "dapo:cap=3", "pods:keep=2", "replay"],
    ["pools", "drop:truncated=false,longest=5", "top_entropy"],
]


@pytest.mark.parametrize("parts", EVERYTHING)
def test_a_saved_strategy_goes_on_equally(tiny, parts):
    from textenv.algos import create_policy

    def make_runner(seed=5):
        strategy = create_strategy("grpo", num_generations=4, parts=copy.deepcopy(parts))
        policy = create_policy(*tiny, {"max_tokens": 6})
        return RolloutRunner(make_sums(), policy, strategy, max_steps=12, seed=seed)

    first = make_runner()
    for version in range(2):
        first.policy_version = version
        first.collect()
    state = json.loads(json.dumps(first.state()))
    other = make_runner(seed=6)
    other.load_state(state)
    for _ in range(3):
        assert other.policy_version == first.policy_version
        one, two = first.collect(), other.collect()
        assert one == two
        assert one.counts.metrics() == two.counts.metrics()
        first.policy_version += 1
        other.policy_version += 1
    assert json.loads(json.dumps(first.state())) == json.loads(json.dumps(other.state()))
    assert first.state() != state  # it remembers something


OTHERS = [
    (lambda: gym.make("textenv:TextGen-v0", task="sort"), "TextGen-v0, task sort$"),
    (
        lambda: gym.make("textenv:TextGen-v0", prompts=["a", "b"], reward_fn="length"),
        "TextGen-v0, task .*, 2 examples$",
    ),
]


def test_the_state_of_another_configuration_is_refused():
    def make_runner(parts, generations=4, steps=12, env=None):
        strategy = create_strategy("grpo", num_generations=generations, parts=parts)
        return RolloutRunner(env or make_sums(), lambda obs: ("", {}), strategy, max_steps=steps)

    state = make_runner(["dapo:cap=3", "pods:keep=2"]).state()
    make_runner(["dapo:cap=3", "pods:keep=2"]).load_state(state)
    for parts in (["dapo:cap=3"], ["pods:keep=2", "dapo:cap=3"], ["dapo:cap=4", "pods:keep=2"], []):
        with pytest.raises(ConfigError, match=r"another strategy.*dapo:cap=3.*pods:keep=2"):
            make_runner(parts).load_state(state)
    with pytest.raises(ConfigError, match=r"groups of 4.*this one is .*groups of 3"):
        make_runner(["dapo:cap=3", "pods:keep=2"], 3, 9).load_state(state)
    with pytest.raises(ConfigError, match="of 3 groups; this one has 6"):
        make_runner(["dapo:cap=3", "pods:keep=2"], steps=24).load_state(state)
    for env, title in OTHERS:
        other = make_runner(["dapo:cap=3", "pods:keep=2"], env=env())
        before = other.state()
        message = f"rollouts in TextGen-v0, task .*; this environment is {title}"
        with pytest.raises(ConfigError, match=message):
            other.load_state(state)
        assert other.state() == before
    for broken in (
        {},
        {**state, "strategy": {}},
        {**state, "strategy": None},
        {**state, "noise": {}},
    ):
        with pytest.raises(DataError, match="not the state of"):
            make_runner(["dapo:cap=3", "pods:keep=2"]).load_state(broken)


# --- workers ------------------------------------------------------------------------------------


def test_workers_play_what_this_process_selects(tiny_folder):
    parts = ["greso", "dapo:cap=3", "pods:keep=2", "replay"]

    def collect(num_workers):
        strategy = create_strategy("grpo", num_generations=4, parts=parts)
        coordinator = RolloutCoordinator(
            make_sums, partial(make_policy, str(tiny_folder)), strategy, num_workers, max_steps=32
        )
        try:
            rollouts = []
            for version in range(2):
                coordinator.policy_version = version
                rollouts.append(coordinator.collect())
            return rollouts, coordinator.runner.state()
        finally:
            coordinator.close()

    (alone, state), (shared, other) = collect(0), collect(2)
    assert alone == shared
    assert state == other
    assert [r.counts.metrics() for r in alone] == [r.counts.metrics() for r in shared]
    assert 0 < len(alone[0]) <= 16
    assert not multiprocessing.active_children()
