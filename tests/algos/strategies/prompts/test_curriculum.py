"""The curriculum: moves by hand, what it cannot be used with, and prompts at its level."""

from __future__ import annotations

import re

import gymnasium as gym
import pytest

from textenv.algos import RolloutRunner, create_strategy
from textenv.algos.strategies import Start, make_part
from textenv.algos.strategies.prompts.curriculum import Curriculum
from textenv.errors import ConfigError

RIGHT, WRONG, HALF = [1, 1], [0, 0], [1, 0]


def arithmetic(prepared, **settings):
    return prepared(Curriculum(**settings), env=gym.make("TextGen-v0"))


def test_the_moves_by_hand(prepared, group):
    part = arithmetic(prepared, window=4, up=0.75, down=0.25)

    def observe(*outcomes):
        part.observe([group(0, o, level=part.level) for o in outcomes])
        return part.level

    assert part.level == 2  # digits, as the task has them
    assert observe(RIGHT, RIGHT, RIGHT) == 2  # the window is not full
    assert observe(WRONG) == 3  # 3 of 4
    assert observe(RIGHT) == 3  # it began anew
    assert observe(WRONG, WRONG, WRONG) == 2  # 1 of 4
    assert observe(HALF, HALF, HALF, HALF) == 2
    assert observe(RIGHT, RIGHT) == 3  # the latest 4: .5 .5 1 1
    assert part.metrics() == {"level": 3, "pass_rate": 0}


def test_it_stays_within_the_levels(prepared, group):
    part = arithmetic(prepared, window=1, step=5, up=0.7)
    levels = []
    for outcomes in (RIGHT, RIGHT, RIGHT, WRONG, WRONG, WRONG, WRONG):
        part.observe([group(0, outcomes, level=part.level)])
        levels.append(part.level)
    assert levels == [7, 12, 12, 7, 2, 1, 1]


def test_groups_of_another_level_do_not_count(prepared, group):
    part = arithmetic(prepared, window=2)
    part.observe([group(0, RIGHT, level=1), group(0, RIGHT), group(0, RIGHT, level=2)])
    assert part.level == 2
    assert part.metrics()["pass_rate"] == 1
    part.observe([group(0, RIGHT, level=2)])
    assert part.level == 3


def test_starts_are_those_proposed_at_the_level(prepared):
    part = arithmetic(prepared, start=5)
    proposed = [Start(0, 11, None), Start(0, 12, {"example_id": 3})]
    assert part.choose(lambda n: proposed[:n], 2) == [
        Start(0, 11, {"level": 5}),
        Start(0, 12, {"example_id": 3, "level": 5}),
    ]


def test_a_task_that_is_learnt_gets_harder(answers):
    part = make_part("curriculum:window=8")
    strategy = create_strategy("grpo", num_generations=4, parts=[part])
    policy = answers(lambda prompt: 1.0 if len(prompt) <= 2 * 4 + 2 else 0.0)  # 4 digits at most
    runner = RolloutRunner(gym.make("TextGen-v0"), policy, strategy, max_steps=4 * 8)
    digits = []
    for _ in range(8):
        prompts = {t.prompt for t in runner.collect()}
        found = {len(number) for prompt in prompts for number in re.findall(r"\d+", prompt)}
        assert len(found) == 1  # of one level
        digits += found
    assert digits == [2, 3, 4, 5, 4, 5, 4, 5]


def test_the_curricula_of_reasoning_gym():
    pytest.importorskip("reasoning_gym")
    env = gym.make("TextGen-v0", task="reasoning_gym:chain_sum")
    part = make_part("curriculum:window=1,up=.9")
    strategy = create_strategy("grpo", num_generations=2, parts=[part])
    solver = env.unwrapped.task

    def policy(observation, deterministic=False):
        total = sum(int(n) for n in re.findall(r"[+-]?\d+", observation.replace(" ", "")))
        return str(total), {}

    runner = RolloutRunner(env, policy, strategy, max_steps=2 * 2)
    rewards, levels, lengths = [], [], []
    for _ in range(5):
        buffer = runner.collect()
        rewards += [t.total_reward for t in buffer]
        levels.append(buffer.trajectories[0].reset_info["level"])
        lengths.append(max(len(t.prompt) for t in buffer))
    assert solver.level is None
    assert levels == [min(i, solver.levels[-1]) for i in range(5)]  # from its lowest
    assert rewards == [1.0] * 20
    assert lengths[-1] > lengths[0]


@pytest.mark.parametrize(
    ("env", "says"),
    [
        (lambda: gym.make("TextGen-v0", task="guess_number"), "task 'guess_number' has none"),
        (
            lambda: gym.make("TextGen-v0", prompts=["a"], reward_fn="length"),
            "levels of difficulty, and task 'prompts' has none",
        ),
        (lambda: gym.make_vec("TextGen-v0", num_envs=2), "curriculum needs a single environment"),
    ],
)
def test_what_it_cannot_be_used_with_is_refused_before_anything_is_generated(env, says):
    def policy(observation, deterministic=False):
        raise AssertionError("something was generated")

    strategy = create_strategy("grpo", num_generations=2, parts=["curriculum"])
    with pytest.raises(ConfigError, match=f"strategy part 'curriculum.*': .*{says}"):
        RolloutRunner(env(), policy, strategy, max_steps=12)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"up": 0.2, "down": 0.2}, "down must be below up, got 0.2 and 0.2"),
        ({"window": 0}, "window must be at least 1, got 0"),
        ({"step": 0}, "step must be at least 1, got 0"),
    ],
)
def test_settings_that_cannot_be_are_named(settings, says):
    with pytest.raises(ConfigError, match=says):
        Curriculum(**settings)


def test_a_start_that_is_no_level_is_named(prepared):
    with pytest.raises(ConfigError, match="a level of arithmetic, from 1 to 12, got 13"):
        arithmetic(prepared, start=13)
