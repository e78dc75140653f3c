"""The task ``reverse``: write a word backwards."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from textenv.errors import ConfigError
from textenv.rewards.extract import ExtractSpec
from textenv.tasks.base import Example, GeneratedTask, check_range, check_split, check_style


@dataclass(frozen=True)
class Reverse(GeneratedTask):
    """Write a word of random letters backwards.

    ## Description
    ``reverse abcd=`` is answered by ``dcba``. In style ``"chat"`` the prompt is ``Write the word
    abcd backwards. Reply with the word only.``, and the last word made of the alphabet's letters
    counts.

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
    As ``task_kwargs``: ``min_length``, ``max_length`` and ``alphabet``, described below;
    ``split`` and ``style``. The level is ``max_length``, and ``min_length`` changes with it.

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
    style: str = "plain"
    """``"plain"``, or ``"chat"``, which asks in words."""

    def __post_init__(self) -> None:
        check_range("min_length", self.min_length, 1, 1000)
        check_range("max_length", self.max_length, self.min_length, 1000)
        check_split(self.split)
        check_style(self.style)
        if not self.alphabet or any(letter.isspace() or letter == "=" for letter in self.alphabet):
            raise ConfigError(
                f"alphabet must be letters without spaces or '=', got {self.alphabet!r}"
            )

    def generate(self, rng: random.Random) -> Example:
        """Draw a length, then the letters of a word."""
        length = rng.randint(self.min_length, self.max_length)
        word = "".join(rng.choice(self.alphabet) for _ in range(length))
        return {"prompt": f"reverse {word}=", "answer": word[::-1]}

    @property
    def extract(self) -> ExtractSpec | None:
        """In style ``"chat"``, the last word made of the alphabet's letters."""
        letters = re.escape("".join(sorted({*self.alphabet})))
        return rf"regex:(?<!\w)[{letters}]+(?!\w)" if self.style == "chat" else None

    def chat_prompt(self, example: Example) -> str:
        """The word in a sentence."""
        word = example["answer"][::-1]
        return f"Write the word {word} backwards. Reply with the word only."

    def score(self, example: Example, completion: str) -> float:
        """1 for the word backwards and nothing else but spaces around it."""
        return float(completion.strip() == example["answer"])
