"""Completions as token ids."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import InvalidAction
from hypothesis import given
from hypothesis import strategies as st

from textenv.wrappers import DetokenizeAction

PRINTABLE = "".join(map(chr, range(32, 127)))


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        ([19, 20, 21, 18], "1230"),
        ([19, 1, 20, 21], "1"),  # what comes after the EOS is ignored
        ([1, 1, 1, 1], ""),
        ([19], "1"),  # a shorter list is fine
        ([], ""),
        (np.array([19, 20, 1, 97]), "12"),
        ((0, 19), "<pad>1"),
    ],
)
def test_ids_are_text_up_to_the_first_eos(ids, text):
    env = DetokenizeAction(gym.make("TextGen-v0"), "tiny-lm", max_tokens=4)
    env.reset(seed=0)
    assert env.step(ids)[4]["completion"] == text


@given(st.text(PRINTABLE, max_size=8))
def test_text_comes_back_through_the_ids(text):
    env = DetokenizeAction(gym.make("TextGen-v0"), "tiny-lm", max_tokens=8)
    ids = env.tokenizer.encode(text)
    full = np.full(8, env.tokenizer.eos_token_ids[0])
    full[: len(ids)] = ids
    assert full in env.action_space
    assert env.action(ids) == env.action(full) == text


@pytest.mark.parametrize(
    ("ids", "match"),
    [
        ([1] * 5, r"at most 4 .*\(5,\)"),
        ([[1, 2]], r"\(1, 2\)"),
        (3, r"shape \(\)"),
        ([0.5], "float64"),
        (["a"], "integers"),
        ([98], "from 0 to 97, got 98"),
        ([-1], "got -1"),
    ],
)
def test_what_is_no_list_of_ids_is_named(ids, match):
    env = DetokenizeAction(gym.make("TextGen-v0"), "tiny-lm", max_tokens=4)
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match=match):
        env.step(ids)
