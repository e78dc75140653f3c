"""Pools: shares by counting, borders and running means by hand, and pools that are empty."""

from __future__ import annotations

from collections import Counter

import gymnasium as gym
import pytest

from textenv.algos import RolloutRunner, create_strategy
from textenv.algos.strategies import make_part
from textenv.algos.strategies.prompts.pools import Pools
from textenv.errors import ConfigError

RIGHT, WRONG, MIXED = [1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 1]


def known(part, group, easy, hard):
    part.observe([group(i, RIGHT) for i in easy] + [group(i, WRONG) for i in hard])
    return part


def draw(part, propose, rollouts, count):
    """How often each example was drawn, and how many of each pool in each rollout."""
    drawn, pools = Counter(), []
    for _ in range(rollouts):
        ids = [start.options["example_id"] for start in part.choose(propose, count)]
        assert len(ids) == count
        drawn.update(ids)
        pools.append(Counter(map(part.pool, ids)))
    return drawn, pools


def test_the_shares_by_counting(prepared, epochs, group):
    part = known(prepared(Pools(easy=0.25, hard=0.125), 40), group, range(10), range(10, 20))
    drawn, pools = draw(part, epochs(40), 300, 8)
    assert all(p == {"easy": 2, "hard": 1, "normal": 5} for p in pools)
    assert part.metrics() == {"easy": 2, "hard": 1, "normal": 5}
    for members, total in ((range(10), 600), (range(10, 20), 300)):
        mean = total / 10  # each as often as another
        assert all(abs(drawn[i] - mean) < 5 * mean**0.5 for i in members)
    normal = [drawn[i] for i in range(20, 40)]  # 1500 in shuffled epochs of 20
    assert (min(normal), max(normal)) == (75, 75)


def test_what_is_rounded_off_comes_later(prepared, epochs, group):
    part = known(prepared(Pools(easy=0.1, hard=0.3), 40), group, range(10), range(10, 20))
    _, pools = draw(part, epochs(40), 50, 8)
    easy, hard = ([p[pool] for p in pools] for pool in ("easy", "hard"))
    assert (set(easy), sum(easy)) == ({0, 1}, 40)  # .8 a rollout
    assert (set(hard), sum(hard)) == ({2, 3}, 120)  # 2.4 a rollout


def test_unknown_prompts_are_normal_and_each_is_drawn_once_a_rollout(prepared, epochs, group):
    part = prepared(Pools(easy=0.25, hard=0.25), 16)
    propose = epochs(16)
    drawn, pools = draw(part, propose, 2, 8)
    assert all(p == {"normal": 8} for p in pools)
    assert set(drawn.values()) == {1}  # nothing is known: an epoch in the uniform order
    known(part, group, range(4), range(4, 8))
    for _ in range(20):
        starts = part.choose(propose, 8)
        assert len({start.options["example_id"] for start in starts}) == 8


def test_the_borders(prepared, group):
    part = prepared(Pools(easy_above=0.75, hard_below=0.25))
    part.observe([group(0, [1, 1, 1, 0]), group(1, [1, 0, 0, 0]), group(2, RIGHT), group(3, WRONG)])
    assert [part.pool(i) for i in range(5)] == ["normal", "normal", "easy", "hard", "normal"]


def test_the_pass_rate_is_a_running_mean(prepared, group):
    part = prepared(Pools(decay=0.5))
    rates = []
    for outcomes in (RIGHT, WRONG, MIXED, WRONG):
        part.observe([group(3, outcomes)])
        rates.append(part._rates[3])
    assert rates == [1.0, 0.5, 0.5, 0.25]
    forgets = prepared(Pools(decay=0))
    for outcomes in (RIGHT, MIXED):
        forgets.observe([group(3, outcomes)])
    assert forgets._rates[3] == 0.5


@pytest.mark.parametrize("outcomes", [RIGHT, WRONG])
def test_where_all_are_in_one_pool_it_fills_the_rollout(prepared, epochs, group, outcomes):
    part = prepared(Pools(), 6)
    part.observe([group(i, outcomes) for i in range(6)])
    drawn, _ = draw(part, epochs(6), 30, 4)
    assert set(drawn) == set(range(6))


def test_more_than_a_pool_holds(prepared, epochs, group):
    part = known(prepared(Pools(easy=0.5, hard=0.5), 20), group, [0], [1])
    _, pools = draw(part, epochs(20), 10, 8)
    assert all(p == {"easy": 1, "hard": 1, "normal": 6} for p in pools)


def test_the_seeds_of_a_task_without_end(answers):
    part = make_part("pools:easy=.25,hard=.25,num_seeds=30")
    strategy = create_strategy("grpo", num_generations=4, parts=[part])
    levels = {"1": 1.0, "2": 1.0, "3": 0.0, "4": 0.0}
    policy = answers(lambda prompt: levels.get(prompt[0], 0.5))
    runner = RolloutRunner(gym.make("TextGen-v0"), policy, strategy, max_steps=4 * 8)
    seen = Counter()
    for i in range(40):
        buffer = runner.collect()
        if i >= 20:  # all are known by now
            seen.update(levels.get(t.prompt[0], 0.5) for t in buffer)
    total = seen.total()
    assert seen[1.0] / total == pytest.approx(0.25, abs=0.05)
    assert seen[0.0] / total == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("pools:easy=.6,hard=.6", "easy=0.6 and hard=0.6 are more than 1 together"),
        ("pools:easy_above=.1", "hard_below must be at most easy_above, got 0.2 and 0.1"),
        ("pools:decay=-1", "decay must be at least 0 and at most 1, got -1"),
    ],
)
def test_settings_that_cannot_be_are_named(text, says):
    with pytest.raises(ConfigError, match=says):
        make_part(text)
