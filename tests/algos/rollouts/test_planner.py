"""Where episodes start: shuffled epochs, fresh seeds, groups and noise."""

from __future__ import annotations

import json
from functools import partial

import gymnasium as gym
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from tests.algos.shared import SUMS, make_env
from textenv.algos import RolloutRunner, create_strategy
from textenv.algos.episodes.environments import as_dict_step
from textenv.algos.rollouts.planner import Planner
from textenv.algos.strategies import Prompts
from textenv.envs.env import TextGenerationEnv
from textenv.errors import ConfigError

make_sums = partial(make_env, prompts=SUMS)


def test_options_are_not_given_to_vector_environments():
    class Fixed(Prompts):
        def choose(self, propose, count):
            return [start._replace(options={"example_id": 1}) for start in propose(count)]

    env = SyncVectorEnv([make_sums] * 4, autoreset_mode=AutoresetMode.DISABLED)
    strategy = create_strategy("grpo", num_generations=2, parts=[Fixed()])
    runner = RolloutRunner(env, lambda obs: (("",) * 4, {}), strategy, max_steps=4)
    with pytest.raises(ConfigError, match="use a single environment"):
        runner.collect()
    single = RolloutRunner(make_sums(), lambda obs: ("", {}), strategy, max_steps=4)
    rollout = single.collect()
    assert {t.prompt for t in rollout} == {"1+1="}
    assert [t.group_id for t in rollout] == [0, 0, 1, 1]  # two groups, of one prompt


def make_planner(env=None, seed=0, size=2, parts=(), same_options=False):
    strategy = create_strategy("grpo", num_generations=size, parts=list(parts))
    return Planner(as_dict_step(env or make_sums()), strategy, seed, same_options)


def ids(starts, size=2):
    return [start.options["example_id"] for start in starts[::size]]


def test_groups_are_numbered_on_and_alike_but_for_their_noise():
    planner = make_planner(size=3)
    starts = planner.plan(2) + planner.plan(1)
    assert [start.group_id for start in starts] == [0] * 3 + [1] * 3 + [2] * 3
    for first in range(0, 9, 3):
        group = starts[first : first + 3]
        assert len({start._replace(noise=0)[1] for start in group}) == 1
        assert group[0].options == group[1].options == group[2].options
    noise = [start.noise for start in starts]
    assert len(set(noise)) == 9 and all(0 <= seed < 2**63 for seed in noise)


def test_examples_of_a_finite_task_come_in_shuffled_epochs():
    planner = make_planner()
    drawn = ids(planner.plan(7)) + ids(planner.plan(23))
    epochs = [drawn[i : i + 10] for i in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 3


@pytest.mark.parametrize("same_options", [False, True])
def test_others_are_drawn_by_seed(same_options):
    env = gym.make("textenv:TextGen-v0", task="sort")
    starts = make_planner(make_sums() if same_options else env, same_options=same_options).plan(50)
    assert {start.options for start in starts} == {None}
    assert len({start.seed for start in starts}) == 50


def test_a_seed_gives_one_plan_and_none_another_each_time():
    assert make_planner(seed=3).plan(5) == make_planner(seed=3).plan(5)
    assert make_planner(seed=3).plan(5) != make_planner(seed=4).plan(5)
    assert make_planner(seed=None).plan(5) != make_planner(seed=None).plan(5)


def test_plans_go_on_from_a_state():
    planner = make_planner()
    planner.plan(7)
    state = json.loads(json.dumps(planner.state()))
    expected = planner.plan(9)
    other = make_planner(seed=9)
    other.load_state(state)
    assert other.plan(9) == expected
    elsewhere = make_planner(gym.make("textenv:TextGen-v0", task="sort"))
    with pytest.raises(ConfigError, match="this environment is TextGen-v0, task sort"):
        elsewhere.load_state(state)


def test_a_state_is_of_the_very_examples():
    state = make_planner().state()
    make_planner().load_state(state)
    changed = [*SUMS[:-1], "7+7="]
    assert len(changed) == len(SUMS) and changed != SUMS
    other = make_planner(make_env(prompts=changed))
    with pytest.raises(ConfigError, match=r"examples of .*10 examples are others"):
        other.load_state(state)
    a, b = (TextGenerationEnv(SUMS, "exact_match", examples=[{"answer": x}] * 10) for x in "ab")
    with pytest.raises(ConfigError, match="examples of"):
        make_planner(b).load_state(make_planner(a).state())


def test_prompts_are_what_the_strategy_chooses():
    class Last(Prompts):
        def choose(self, propose, count):
            return propose(3 * count)[-count:]

    plain, chosen = make_planner(), make_planner(parts=[Last()])
    assert ids(chosen.plan(2)) == ids(plain.plan(6))[-2:]
    assert [start.group_id for start in chosen.plan(1)] == [2, 2]  # numbered when chosen
