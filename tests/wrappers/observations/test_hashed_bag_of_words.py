"""Text observations as counts of words."""

import subprocess
import sys
import zlib

import gymnasium as gym
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from textenv.wrappers import HashedBagOfWords

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def show(prompt):
    return gym.make("TextGen-v0", prompts=[prompt], reward_fn="length")


def test_words_are_counted_in_the_slot_of_their_checksum():
    # CRC-32 is defined with the check value 0xCBF43926 for "123456789".
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
