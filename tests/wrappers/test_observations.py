import subprocess
import sys
import zlib

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textenv.wrappers import ByteObservation, HashedBagOfWords, TokenizeObservation

PRINTABLE = "".join(map(chr, range(32, 127)))
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


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
        ("11 12", [7, 7, 11, 12], [0, 0, 1, 1]),  # padded with the EOS, where there is no pad
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


@given(TEXT)
def test_bytes_give_back_the_text(text):
    env = ByteObservation(show(""), max_length=64)
    observation = env.observation(text)
    data = text.encode()
    assert observation[: len(data)].tobytes() == data[-64:]
    assert not observation[len(data) :].any()
    assert observation in env.observation_space


def test_the_last_bytes_are_kept():
    env = ByteObservation(show("abcdé"), max_length=3)
    assert env.reset()[0].tolist() == [ord("d"), 0xC3, 0xA9]


def test_words_are_counted_in_the_slot_of_their_checksum():
    # The check value that defines CRC-32: 0xCBF43926 of "123456789".
    env = HashedBagOfWords(show("123456789, 123456789"), size=1000)
    observation, _ = env.reset()
    assert observation[0xCBF43926 % 1000] == 2
    assert observation[zlib.crc32(b",") % 1000] == 1
    assert (observation.sum(), observation.dtype) == (3, np.float32)


@given(TEXT, TEXT)
def test_bags_add_up_and_forget_the_order(one, two):
    env = HashedBagOfWords(show(""), size=31)
    both = env.observation(f"{one}\n{two}")
    assert np.array_equal(both, env.observation(f"{two}\n{one}"))
    assert np.array_equal(both, np.minimum(env.observation(one) + env.observation(two), 255))
    assert both in env.observation_space


def test_case_and_spaces_do_not_count_and_counts_stop():
    env = HashedBagOfWords(show(""), size=64)
    assert np.array_equal(env.observation("Is  it\tÉ?"), env.observation(" is IT é ?"))
    assert env.observation("a " * 300).max() == 255
    assert not env.observation(" \n").any()


def test_the_hash_is_the_same_in_every_process():
    code = (
        "import gymnasium as gym, textenv; from textenv.wrappers import HashedBagOfWords\n"
        "env = HashedBagOfWords(gym.make('TextGen-v0'), size=50)\n"
        "print(env.observation('is this the same?').nonzero()[0].tolist())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True,
            text=True, timeout=60, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(outputs) == 1
