"""Environments that the tests beside several libraries use."""

import gymnasium as gym

from textenv.wrappers import ChoiceAction, HashedBagOfWords

COLOURS = {"grass": "green", "snow": "white", "coal": "black", "blood": "red"}
TOKENS = {"tokenizer": "tiny-lm", "max_tokens": 4, "max_length": 16}


def bandit():
    """Four questions with four answers: a right policy gets 1, a random one 0.25."""
    env = gym.make(
        "TextGen-v0",
        prompts=[f"Which colour has {thing}?" for thing in COLOURS],
        examples=[{"answer": colour} for colour in COLOURS.values()],
        reward_fn="exact_match",
    )
    return ChoiceAction(HashedBagOfWords(env), list(COLOURS.values()))
