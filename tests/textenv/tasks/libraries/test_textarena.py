"""The one-player games of TextArena as tasks."""

import random
import re
import sys
from itertools import permutations

import gymnasium as gym
import numpy as np
import pytest

from textenv import tasks
from textenv.errors import ConfigError, MissingDependencyError
from textenv.tasks.libraries import textarena as source
from textenv.tasks.libraries.contained import Contained

textarena = pytest.importorskip("textarena")
NAMES = source.names()
# It draws rooms until one can be solved, which takes from 1 to 23 seconds.
SLOW = {"textarena:Sokoban-v0-medium"}


def make(game, **kwargs):
    return gym.make("textenv:TextGen-v0", task=f"textarena:{game}", **kwargs)


def pegs(code, guess):
    black = sum(a == b for a, b in zip(code, guess))
    return black, len(set(code) & set(guess)) - black


def test_mastermind_is_won_by_elimination():
    env = make("Mastermind-v0")
    observation, _ = env.reset(seed=0)
    left, said = list(permutations("123456", 4)), []
    for _ in range(20):
        guess = left[0]
        before = observation
        observation, reward, terminated, truncated, info = env.step(f"[{' '.join(guess)}]")
        assert observation == before + f"[{' '.join(guess)}]" + info["turn"]
        if terminated:
            break
        black, white = map(int, re.findall(r"(\d) (?:black|white)", info["turn"]))
        assert (reward, "is_correct" in info) == (0.0, False)
        left = [code for code in left if pegs(code, guess) == (black, white)]
        said.append((guess, (black, white)))
    assert (reward, truncated, info["is_correct"]) == (1.0, False, True)
    assert all(pegs(guess, other) == answer for other, answer in said)


def test_the_transcript_is_what_the_library_shows_a_language_model():
    env = make("Mastermind-v0")
    observation, _ = env.reset(seed=3)
    theirs = textarena.make("Mastermind-v0")
    with Contained(0).inside():
        theirs.reset(num_players=1, seed=env.unwrapped.example["seed"])
    shown = theirs.get_observation()[1]
    assert observation == shown.lstrip("\n") + "\n[Player] "
    for action in ("[1 2 3 4]", "[1 2]", "[6 5 4 3]"):
        observation, *_ = env.step(action)
        theirs.step(action)
        assert observation == theirs.get_observation()[1].lstrip("\n") + "\n[Player] "


def test_an_id_is_a_game():
    one, two = make("2048-v0"), make("2048-v0")
    start, _ = one.reset(options={"example_id": 5})
    played = []
    for env in (one, two):
        env.reset(options={"example_id": 5})
        # The reply to a move is random too, so that two games at once could disturb each other.
        one.reset(options={"example_id": 6}) if env is two else None
        played.append([env.step(f"[{way}]")[0] for way in ("left", "up", "right", "down")])
    assert played[0] == played[1]
    starts = {one.reset(options={"example_id": i})[0] for i in range(20)}
    assert len(starts) > 10 and start in starts
    with pytest.raises(ConfigError, match="-1"):
        one.reset(options={"example_id": -1})


def test_games_that_take_turns_are_games_alone():
    alone = make("Blackjack-v0")
    alone.reset(options={"example_id": 1})
    expected = [alone.step("[hit]")[0] for _ in range(4)]
    games = [make("Blackjack-v0") for _ in range(3)]
    for env in games:
        env.reset(options={"example_id": 1})
    turns = [[env.step("[hit]")[0] for env in games] for _ in range(4)]
    assert turns == [[observation] * 3 for observation in expected]


def test_the_splits_share_no_seed():
    train, test = (
        {tasks.make("textarena:Bandit-v0", split=split).example(i)["seed"] for i in range(300)}
        for split in ("train", "test")
    )
    assert not train & test


def test_the_games_own_limit_ends_it_with_the_games_reward():
    env = make("GuessTheNumber-v0")
    assert env.unwrapped.task.max_turns == 20
    env.reset(seed=0)
    for turn in range(1, 11):
        *_, terminated, truncated, info = env.step(f"[{turn}]")
        if terminated:
            break
    assert turn == 10 or info["is_correct"]
    assert terminated and not truncated
    assert make("GuessTheNumber-v0", task_kwargs={"max_turns": 3}).unwrapped.task.max_turns == 6


def test_a_second_invalid_move_loses_even_where_the_library_swaps_its_arguments():
    env = make("Countdown-v0")
    env.reset(seed=0)
    env.step("[]")
    _, reward, terminated, _, info = env.step("[]")
    assert (terminated, type(reward), info["is_correct"]) == (True, float, False)
    assert 0 <= reward < 1


@pytest.mark.parametrize(
    ("game", "kwargs", "says"),
    [
        ("Mastermnd-v0", {}, "did you mean 'Mastermind-v0'"),
        ("Chess-v0", {}, "textarena:Chess-v0 is not a game for one player"),
        ("TwentyQuestions-v0", {}, "OPENROUTER_API_KEY"),
        ("Mastermind-v0", {"code_size": 3}, "refuses task_kwargs.*code_size"),
        ("Mastermind-v0", {"split": "dev"}, "'dev'"),
    ],
)
def test_what_cannot_be_made_says_so(game, kwargs, says, monkeypatch):
    monkeypatch.delenv("OPENROUTER_API_KEY", raising=False)
    source._missing.cache_clear()
    with pytest.raises(ConfigError, match=says):
        tasks.make(f"textarena:{game}", **kwargs)


def test_games_of_words_need_word_lists(monkeypatch):
    import nltk

    def absent(place):
        raise LookupError(place)

    monkeypatch.setattr(nltk.data, "find", absent)
    source._missing.cache_clear()
    for game in ("Wordle-v0", "Hangman-v0"):
        with pytest.raises(ConfigError, match=r"nltk\.downloader words"):
            tasks.make(f"textarena:{game}")
        assert f"textarena:{game}" not in source.names()
    source._missing.cache_clear()


def test_a_library_that_is_not_there_names_the_extra(monkeypatch):

    monkeypatch.setitem(sys.modules, "textarena.envs.registration", None)
    with pytest.raises(MissingDependencyError, match=r"textarena.*textenv\[tasks\]"):
        tasks.make("textarena:Mastermind-v0")


ACTIONS = [
    *("", "x", "[]", "[0]", "[1]", "[1 2]", "[1 2 3]", "[1 2 3 4]", "[a b]", "[A 1]", "[A+]"),
    *("[up]", "[left]", "[hit]", "[stand]", "[accept]", "[flag 0 0]", "[1 2 V]", "[99999999999]"),
    *("[-1 -1]", "[1+2]", "[H 1 1]", "[red]", "🙂", "[²]", "[\u0661]", "[[1]]", "[A B]", "[A C]"),
]


@pytest.mark.slow
def test_every_game_plays_three_episodes(states):
    assert len(NAMES) >= 50
    before = states()
    for name in NAMES:
        if name in SLOW:
            continue
        env = gym.make("textenv:TextGen-v0", task=name)
        for seed in range(3):
            observation, _ = env.reset(seed=seed)
            rng, ended = random.Random(seed), False
            while not ended:
                action = rng.choice(ACTIONS)
                shown = observation
                observation, reward, terminated, truncated, info = env.step(action)
                assert observation == shown + action + info["turn"], name
                assert type(reward) is float and np.isfinite(reward), name
                ended = terminated or truncated
            assert info["is_correct"] is (reward >= 1.0), name
        assert states() == before, name


def test_style_chat_is_the_same_game_without_the_names_of_players():
    plain, chat = make("Mastermind-v0"), make("Mastermind-v0", style="chat")
    one, two = plain.reset(seed=3)[0], chat.reset(seed=3)[0]
    assert one == two + "\n[Player] "
    for action in ("[1 2 3 4]", "[1 2]"):
        _, *theirs, info = plain.step(action)
        _, *ours, told = chat.step(f"<think>[6 5 4 3]</think> {action}")
        assert ours == theirs and told["answer"] == action
        assert info["turn"].removesuffix("\n[Player] ") == told["turn"]
    unfinished = chat.step("<think>[1 2 3 4]")
    assert unfinished[1] <= 0 and unfinished[4]["answer"] is None
