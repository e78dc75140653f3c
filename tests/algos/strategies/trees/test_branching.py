"""What all trees have in common: how many leaves, and what cannot branch."""

from __future__ import annotations

import re
from functools import partial

import gymnasium as gym
import pytest

from tests.algos.strategies.trees.shared import PROMPTS, SETTINGS, digits, make_env
from textenv.algos import RolloutRunner, Trajectory, create_policy, create_strategy
from textenv.algos.strategies import Start
from textenv.algos.strategies.trees.branching import Branch, best_places, planted, play_answers
from textenv.errors import ConfigError


@pytest.mark.parametrize(
    "part, size, message",
    [
        ("tree", 6, r"chains \* \(1 \+ rounds .* num_generations=6: chains=3,branches=1 or"),
        ("tree:chains=3", 8, "chains=4,branches=1 or chains=2,branches=3 or chains=1,branches=7"),
        ("tree:branches=20", 8, "num_generations=8"),
        ("tree:chains=5,rounds=0", 8, "num_generations=8 would do|chains=8"),
        ("turn_tree:chains=2,branches=2", 8, "= 2 .* = 6 leaves"),
    ],
)
def test_leaves_must_come_to_num_generations(part, size, message):
    with pytest.raises(ConfigError, match=message):
        create_strategy("grpo", num_generations=size, parts=[part])


@pytest.mark.parametrize(
    "part", ["tree:score=luck", "tree:branches=0", "tree:earliest=1.5", "segment_tree:segment=0"]
)
def test_settings_out_of_range(part):
    with pytest.raises(ConfigError, match=part.split(":")[1].split("=")[0]):
        create_strategy("grpo", num_generations=8, parts=[part])


class Plain:
    """A policy that knows of no beginnings."""

    batched = True

    def __call__(self, observations, deterministic=False):
        raise AssertionError("nothing may be generated")


def test_what_cannot_branch_says_so(tiny):
    policy = create_policy(*tiny, SETTINGS)
    tree = partial(create_strategy, "grpo", num_generations=8)
    many = gym.make("textenv:TextGen-v0", task="guess_number")
    for part in ("tree", "segment_tree"):
        with pytest.raises(ConfigError, match="turn_tree"):
            RolloutRunner(many, policy, tree(parts=[part]), 800)
        with pytest.raises(ConfigError, match="not text"):
            RolloutRunner(gym.make("CartPole-v1"), policy, tree(parts=[part]), 8)
        with pytest.raises(ConfigError, match="Plain takes no"):
            RolloutRunner(make_env(), Plain(), tree(parts=[part]), 8)
        vector = gym.make_vec("textenv:TextGen-v0", num_envs=8, prompts=PROMPTS, reward_fn=digits)
        with pytest.raises(ConfigError, match="single environment"):
            RolloutRunner(vector, policy, tree(parts=[part]), 8)
    with pytest.raises(ConfigError, match="'tree' branches inside"):
        RolloutRunner(make_env(), policy, tree(parts=["turn_tree"]), 8)


def test_the_best_places_in_the_order_of_their_scores():
    """Of equal scores the first; again from the first where there are too few."""
    scores = [(0.5, 0, 3), (2.0, 1, 7), (0.5, 0, 4), (1.0, 2, 1)]
    assert best_places(scores, 3) == [(1, 7), (2, 1), (0, 3)]
    assert best_places(scores, 6) == [(1, 7), (2, 1), (0, 3), (0, 4), (1, 7), (2, 1)]
    assert best_places(scores, 0) == []


def test_leaves_know_where_they_come_from():
    played = [Trajectory(seed=i) for i in range(3)]
    leaves = planted(played, [Branch(None, 0), Branch(0, 2), Branch(1, 0)])
    assert [(t.seed, t.parent, t.branch_at) for t in leaves] == [
        (0, None, None),
        (1, 0, 2),
        (2, 1, 0),
    ]
    assert leaves[0] is played[0] and played[1].parent is None


@pytest.mark.parametrize("size", [4, 6, 8, 12])
@pytest.mark.parametrize("rounds", [1, 2])
def test_the_settings_that_are_advised_do(size, rounds):
    with pytest.raises(ConfigError) as caught:
        create_strategy("grpo", num_generations=size, parts=[f"tree:rounds={rounds},branches=19"])
    advice = [
        (size, f"tree:rounds={rounds},{settings}")
        for settings in re.findall(r"chains=\d+,branches=\d+", str(caught.value))
    ]
    if not advice:  # no settings make so many leaves: another number is named
        (wanted,) = re.findall(r"num_generations=(\d+) would do", str(caught.value))
        advice = [(int(wanted), f"tree:rounds={rounds},branches=19")]
    for wanted, part in advice:
        assert create_strategy("grpo", num_generations=wanted, parts=[part])


class Spoken:
    """A player whose policy writes down what it is asked."""

    class policy:
        class params:
            max_tokens = 5

    def __init__(self):
        self.asked, self.forgotten = [], 0

    def answer(self, lanes, **tree):
        self.asked.append((lanes, tree))
        row = {"token_logprobs": [-1.0], "token_entropies": [0.5], "support": None}
        rows = [row | {"token_ids": [i], "truncated": True} for i, _ in enumerate(lanes)]
        return [f"from {lane}" for lane in lanes], rows

    def together(self, starts, answer):
        actions, rows = answer([f"lane {i}" for i, _ in enumerate(starts)], None)
        return [
            Trajectory(actions=[action], token_ids=row["token_ids"])
            for action, row in zip(actions, rows)
        ]

    def forget(self):
        self.forgotten += 1


def test_leaves_are_answered_in_their_places_and_nothing_is_kept():
    player = Spoken()

    def grow(leaves):
        assert leaves.longest == 5
        leaves.grow([])  # asks for nothing
        leaves.grow([2, 0], limits=[3, 4])
        assert leaves.actions == ["from lane 0", None, "from lane 2"]
        assert leaves.completion(2).token_ids == [0] and leaves.completion(0).token_ids == [1]
        head = leaves.completion(2)
        leaves.tree[1] = Branch(2, 1)
        leaves.grow([1], [head])

    played = play_answers(player, [Start(0, 1, None)] * 3, grow)
    assert [t.actions for t in played] == [["from lane 0"], ["from lane 1"], ["from lane 2"]]
    assert [(t.parent, t.branch_at) for t in played] == [(None, None), (2, 1), (None, None)]
    (lanes, tree), (again, more) = player.asked
    assert lanes == ["lane 2", "lane 0"] and again == ["lane 1"]
    assert tree == {"branches": True, "begun": None, "limits": [3, 4]}
    assert more["begun"][0].token_ids == [0] and player.forgotten == 1


def test_what_was_kept_is_let_go_where_an_answer_fails():
    player = Spoken()

    def broken(leaves):
        raise RuntimeError("no answer")

    with pytest.raises(RuntimeError):
        play_answers(player, [Start(0, 1, None)], broken)
    assert player.forgotten == 1
