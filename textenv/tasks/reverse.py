"""The task ``reverse``: write a word backwards."""

from __future__ import annotations

import random
from dataclasses import dataclass

from textenv.errors import ConfigError
from textenv.tasks.base import Example, GeneratedTask, check_range, check_split


@dataclass(frozen=True)
class Reverse(GeneratedTask):
    """Write a word of random letters backwards.

    ## Description
    ``reverse abcd=`` is answered by ``dcba``.

    ## Action Space
    `UnicodeText`: the word backwards. Spaces around it are ignored.

    ## Observation Space
    `UnicodeText`: the word.

    ## Rewards
    1 for the word backwards, 0 for anything else.

    ## Starting State
    A length drawn uniformly from ``min_length`` to ``max_length``, then that many letters.

    ## Episode End
    Terminates after one action.

    ## Arguments
    As ``task_kwargs``: ``min_length``, ``max_length`` and ``alphabet``, described below; and
    ``split``. The level is ``max_length``, and ``min_length`` changes with it.

    ## Version History
    * v0: first version.
    """

    name = "reverse"
    levels = range(1, 1001)
    knobs = ("min_length", "max_length")

    min_length: int = 4
    """Fewest letters in a word."""
    max_length: int = 6
    """Most letters in a word; more is harder."""
    alphabet: str = "abcdefghij"
    """The letters to draw from."""
    split: str = "train"

    def __post_init__(self) -> None:
        check_range("min_length", self.min_length, 1, 1000)
        check_range("max_length", self.max_length, self.min_length, 1000)
        check_split(self.split)
        if not self.alphabet or any(letter.isspace() or letter == "=" for letter in self.alphabet):
            raise ConfigError(
                f"alphabet must be letters without spaces or '=', got {self.alphabet!r}"
            )

    def generate(self, rng: random.Random) -> Example:
        """Draw a length, then the letters of a word."""
        length = rng.randint(self.min_length, self.max_length)
        word = "".join(rng.choice(self.alphabet) for _ in range(length))
        return {"prompt": f"reverse {word}=", "answer": word[::-1]}

    def score(self, example: Example, completion: str) -> float:
        """1 for the word backwards and nothing else but spaces around it."""
        return float(completion.strip() == example["answer"])
