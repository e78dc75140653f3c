"""Wrappers of text refuse an environment without text."""

import gymnasium as gym
import pytest

from textenv.errors import ConfigTypeError
from textenv.wrappers import (
    ByteObservation,
    ChatHistory,
    ChoiceAction,
    DetokenizeAction,
    HashedBagOfWords,
    TokenizeObservation,
)
from textenv.wrappers.text import require_text


@pytest.mark.parametrize(
    "wrap",
    [
        lambda env: TokenizeObservation(env, "tiny-lm"),
        lambda env: DetokenizeAction(env, "tiny-lm"),
        lambda env: ChoiceAction(env, ["a"]),
        HashedBagOfWords,
        ByteObservation,
        ChatHistory,
    ],
)
def test_an_environment_without_text_is_named(wrap):
    with pytest.raises(TypeError, match=r"text, got (Box|Discrete)"):
        wrap(gym.make("CartPole-v1"))


def test_a_space_of_text_is_given_back_and_another_named_with_the_wrapper():
    env = gym.make("textenv:TextGen-v0")
    assert require_text(env, "Mine", "observation") is env.observation_space
    assert require_text(env, "Mine", "action") is env.action_space
    tokens = gym.make("TextGenTokens-v0")
    with pytest.raises(ConfigTypeError, match=r"^Mine needs an environment whose action is text"):
        require_text(tokens, "Mine", "action")
