"""GRESO: skips at the rate of its formula, p that moves by hand, and prompts that come back."""

from __future__ import annotations

from collections import Counter

import gymnasium as gym
import pytest

from textenv.algos import RolloutRunner, create_strategy
from textenv.algos.strategies import make_part
from textenv.algos.strategies.prompts.greso import Greso
from textenv.errors import ConfigError

RIGHT, WRONG, MIXED = [1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 1]


@pytest.mark.parametrize("p", [0.5, 0.8])
def test_a_prompt_is_skipped_with_the_probability_of_the_formula(prepared, epochs, group, p):
    part = prepared(Greso(exploration=p, step=0), 20)
    streaks = {i: i % 5 for i in range(20)}
    for i, times in streaks.items():
        for _ in range(times):
            part.observe([group(i, RIGHT if i < 10 else WRONG)])
    propose = epochs(20)
    chosen = Counter()
    for _ in range(500):
        chosen.update(s.options["example_id"] for s in part.choose(propose, 8))
    assert sum(chosen.values()) == 4000
    assert part.skipped == sum(propose.turns.values()) - 4000
    for times in range(5):
        members = [i for i, z in streaks.items() if z == times]
        turns = sum(propose.turns[i] for i in members)
        expected, played = p**times, sum(chosen[i] for i in members)
        bound = 4 * (turns * expected * (1 - expected)) ** 0.5
        assert abs(played - turns * expected) <= bound, times
        if times == 0:  # with information, or unknown
            assert played == turns


def test_a_group_with_information_brings_a_prompt_back_at_once(prepared, group):
    part = prepared(Greso(step=0))
    for times in (1, 2, 3):
        part.observe([group(4, WRONG)])
        assert part.play_probability(4) == 0.5**times
    part.observe([group(4, MIXED)])
    assert part.play_probability(4) == 1
    assert part.play_probability(5) == 1  # unknown
    part.observe([group(4, RIGHT)])
    assert part.play_probability(4) == 0.5


def test_it_goes_by_the_outcome_and_not_by_the_reward(prepared, group):
    part = prepared(Greso())
    shaped = group(1, RIGHT)
    for i, trajectory in enumerate(shaped):
        trajectory.rewards = [float(i)]
    part.observe([shaped])
    assert part.play_probability(1) < 1


def test_p_moves_by_hand(prepared, group):
    part = prepared(Greso())
    ten = [group(0, RIGHT), group(1, WRONG), *(group(i, MIXED) for i in range(2, 10))]
    part.observe(ten)  # .1 all right, more than .083; .1 all wrong, less than .167
    assert part.play_probability(0) == pytest.approx(0.49)
    assert part.play_probability(1) == pytest.approx(0.51)
    part.observe([group(2, MIXED)])
    assert part.play_probability(0) == pytest.approx(0.50)
    assert part.play_probability(1) == pytest.approx(0.52)
    assert part.metrics() == pytest.approx(
        {"exploration_right": 0.5, "exploration_wrong": 0.52, "uniform_prompts": 2}
    )


def test_p_stays_between_least_and_one(prepared, group):
    part = prepared(Greso(exploration=0.5, step=0.3, least=0.1))
    for _ in range(3):
        part.observe([group(0, RIGHT)])
    assert part.metrics()["exploration_right"] == 0.1
    assert part.metrics()["exploration_wrong"] == 1.0
    assert part.play_probability(0) == 0.1  # and not .1 ** 3


def test_a_task_that_is_solved_is_still_played(prepared, epochs, group):
    part = prepared(Greso(), 10)
    propose = epochs(10)
    for _ in range(200):
        chosen = part.choose(propose, 4)
        assert len(chosen) == 4
        part.observe([group(s.options["example_id"], RIGHT) for s in chosen])
    assert part.skipped > 2000


def test_seeds_come_again_and_are_known_by_their_seed(answers):
    part = make_part("greso:num_seeds=12")
    strategy = create_strategy("grpo", num_generations=4, parts=[part])
    policy = answers(lambda prompt: 1.0 if int(prompt[1]) < 5 else 0.5)
    runner = RolloutRunner(gym.make("TextGen-v0"), policy, strategy, max_steps=4 * 6)
    played, skipped = Counter(), []
    for _ in range(40):
        buffer = runner.collect()
        assert len(buffer) == 24
        played.update(t.prompt for t in buffer)
        skipped.append(buffer.counts.prompts_skipped)
    assert len(played) == 12
    assert sum(skipped) == part.skipped > 40
    easy = [n for prompt, n in played.items() if int(prompt[1]) < 5]
    other = [n for prompt, n in played.items() if int(prompt[1]) >= 5]
    assert easy and other and max(easy) < min(other) / 2


def test_without_skipping_each_seed_is_played_once_an_epoch(prepared):
    part = prepared(Greso(num_seeds=7), env=gym.make("TextGen-v0"))
    seeds = [start.seed for start in part.choose(None, 21)]
    assert len(set(seeds)) == 7
    assert all(len(set(seeds[i : i + 7])) == 7 for i in (0, 7, 14))
    assert seeds[:7] != seeds[7:14]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("greso:exploration=2", "exploration must be at least 0 and at most 1, got 2"),
        ("greso:least=0", "least must be above 0 and at most exploration=0.5, got 0"),
        ("greso:num_seeds=0", "num_seeds must be at least 1"),
        ("greso:step=x", "step must be float, got 'x'"),
    ],
)
def test_settings_that_cannot_be_are_named(text, says):
    with pytest.raises(ConfigError, match=says):
        make_part(text)


def test_groups_of_one_are_refused():
    with pytest.raises(ConfigError, match=r"num_generations must be at least 2, got 1"):
        create_strategy("grpo", num_generations=1, parts=["greso"])
