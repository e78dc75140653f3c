"""Text observations as bytes."""

import gymnasium as gym
from hypothesis import given
from hypothesis import strategies as st

from textenv.wrappers import ByteObservation

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def show(prompt):
    return gym.make("TextGen-v0", prompts=[prompt], reward_fn="length")


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
