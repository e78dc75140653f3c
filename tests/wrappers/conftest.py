"""Three questions with answers of their own, and one thread for torch."""

import gymnasium as gym
import pytest


@pytest.fixture
def one_thread():
    """Networks as small as those of the tests only wait for a second thread."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def letter_examples():
    """Examples with two, four and one choices."""
    return [
        {"answer": "b", "choices": ["a", "b"]},
        {"answer": "d", "choices": ["a", "b", "c", "d"]},
        {"answer": "a", "choices": ["a"]},
    ]


@pytest.fixture
def letters(letter_examples):
    """Makes an environment of these examples, or of others."""

    def make(examples=None):
        examples = letter_examples if examples is None else examples
        return gym.make(
            "TextGen-v0",
            prompts=[f"Letter {i}?" for i in range(len(examples))],
            examples=examples,
            reward_fn="exact_match",
        )

    return make
