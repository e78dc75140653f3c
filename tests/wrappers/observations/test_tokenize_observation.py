"""Text observations as token ids."""

import gymnasium as gym
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textenv.wrappers import TokenizeObservation

PRINTABLE = "".join(map(chr, range(32, 127)))


def show(prompt):
    return gym.make("TextGen-v0", prompts=[prompt], reward_fn="length")


class Words:
    vocab_size = 100
    eos_token_id = 7

    def encode(self, text):
        return [int(word) for word in text.split()]

    def decode(self, ids):
        return " ".join(map(str, ids))


@pytest.mark.parametrize(
    ("prompt", "ids", "mask"),
    [
        ("11 12", [7, 7, 11, 12], [0, 0, 1, 1]),  # it pads with the EOS
        ("", [7, 7, 7, 7], [0, 0, 0, 0]),
        ("1 2 3 4", [1, 2, 3, 4], [1, 1, 1, 1]),
        ("1 2 3 4 5 6", [3, 4, 5, 6], [1, 1, 1, 1]),
    ],
)
def test_the_last_tokens_are_shown(prompt, ids, mask):
    env = TokenizeObservation(show(prompt), Words(), max_length=4)
    observation, info = env.reset()
    assert (observation["ids"].tolist(), observation["mask"].tolist()) == (ids, mask)
    assert info["prompt"] == prompt
    assert observation in env.observation_space


def test_the_space_is_that_of_the_token_environment():
    tokens = gym.make("TextGenTokens-v0", tokenizer="tiny-lm", max_length=32)
    text = TokenizeObservation(gym.make("TextGen-v0"), "tiny-lm", max_length=32)
    assert text.observation_space == tokens.observation_space
    ours, _ = text.reset(seed=3)
    theirs, _ = tokens.reset(seed=3)
    assert {k: v.tolist() for k, v in ours.items()} == {k: v.tolist() for k, v in theirs.items()}


@given(st.text(PRINTABLE, max_size=40))
def test_tokens_give_back_the_text(text):
    env = TokenizeObservation(show(""), "tiny-lm", max_length=20)
    observation = env.observation(text)
    real = observation["ids"][observation["mask"] == 1]
    assert env.tokenizer.decode(real) == text[-20:]
    assert observation in env.observation_space


def test_special_tokens_can_be_left_out():
    class Begins(Words):
        all_special_ids = (9,)

        def encode(self, text, add_special_tokens=True):
            return [9] * add_special_tokens + super().encode(text)

    for special, expected in ((True, [9, 1]), (False, [7, 1])):
        env = TokenizeObservation(show("1"), Begins(), 2, add_special_tokens=special)
        assert env.reset()[0]["ids"].tolist() == expected
