"""The task ``guess_number``: find a hidden number with the hints higher and lower."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from textenv.errors import ConfigError
from textenv.tasks.base import (
    MOST_LISTED,
    Episode,
    Example,
    GeneratedTask,
    Turn,
    check_range,
    check_split,
    check_style,
)


@dataclass(frozen=True)
class GuessNumber(GeneratedTask):
    """Guess a hidden number in a limited number of turns, with the hints higher and lower.

    ## Description
    ``guess a number from 1 to 20:`` asks for guesses. The reply to each guess is ``higher`` if
    the hidden number is higher, ``lower`` if it is lower, or ``right``. In style ``"chat"`` the
    prompt says so in words, and the last number of each completion is the guess.

    ## Action Space
    `UnicodeText`: a whole number in digits. Spaces around it are ignored. The reply to anything
    else is ``not a number``, and it uses up a turn.

    ## Observation Space
    `UnicodeText`: the transcript with the guesses and hints.

    ## Rewards
    1 for the hidden number, 0 for each guess before it.

    ## Starting State
    A range within ``low`` and ``high`` with random ends, and a number drawn uniformly from it.

    ## Episode End
    Terminates with the right guess. Truncates after ``max_turns`` guesses without it.

    ## Arguments
    As ``task_kwargs``: ``low``, ``high`` and ``max_turns``, described below; ``split`` and
    ``style``.

    ## Version History
    * v0: first version.
    """

    name = "guess_number"
    chat_extract = "last_number"

    low: int = 1
    """The smallest number that can be hidden."""
    high: int = 20
    """The largest number that can be hidden; more is harder."""
    max_turns: int = 6
    """Guesses in an episode; then it is truncated. Binary search in 1..20 takes at most 5."""
    split: str = "train"
    style: str = "plain"
    """``"plain"``, or ``"chat"``, which asks in words."""

    def __post_init__(self) -> None:
        check_range("max_turns", self.max_turns, 1, 1000)
        check_range("low", self.low, 0, 10**9)
        check_range("high", self.high, self.low, 10**9)
        check_split(self.split)
        check_style(self.style)
        if self.high - self.low < 9:
            raise ConfigError(
                f"high must be at least low + 9, so that both splits have numbers: "
                f"got {self.low} and {self.high}"
            )

    def generate(self, rng: random.Random) -> Example:
        """Draw the ends of the range and the hidden number."""
        while True:
            low = self.low + rng.randint(0, self._spare)
            high = self.high - rng.randint(0, self._spare)
            number = rng.randint(self.low, self.high)
            if low <= number <= high:
                return _problem(low, high, number)

    def problems(self) -> Iterable[Example] | None:
        """All ranges with all their numbers; None if they are too many to list."""
        ends = range(self._spare + 1)
        if len(ends) ** 2 * (self.high - self.low) > MOST_LISTED:
            return None
        ranges = [(self.low + above, self.high - below) for above in ends for below in ends]
        return [_problem(low, high, n) for low, high in ranges for n in range(low, high + 1)]

    @property
    def _spare(self) -> int:
        return (self.high - self.low) // 4

    def split_key(self, example: Example) -> str:
        """The range and the number."""
        return example["prompt"] + example["answer"]

    def chat_prompt(self, example: Example) -> str:
        """The rules in words."""
        return (
            f"Guess my whole number from {example['low']} to {example['high']}. I reply higher if "
            "it is higher than your guess, and lower if it is lower. Reply with one number only."
        )

    def score(self, example: Example, completion: str) -> float:
        """1 for the hidden number, else 0."""
        return float(completion.strip() == example["answer"])

    def begin(self, example: Example) -> Episode:
        """Start an episode of guesses."""
        return _Guessing(int(example["answer"]))


def _problem(low: int, high: int, number: int) -> Example:
    prompt = f"guess a number from {low} to {high}:\n"
    return {"prompt": prompt, "answer": str(number), "low": low, "high": high}


_NO_NUMBER = Turn("\nnot a number\n", 0.0, False)
_HIGHER = Turn("\nhigher\n", 0.0, False)
_LOWER = Turn("\nlower\n", 0.0, False)
_RIGHT = Turn("\nright\n", 1.0, True)


class _Guessing(Episode):
    def __init__(self, number: int):
        self._number = number

    def step(self, action: str) -> Turn:
        """Reply higher or lower, or end the episode with a reward of 1."""
        text = action.strip()
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            return _NO_NUMBER
        guess = int(text)
        if guess == self._number:
            return _RIGHT
        return _HIGHER if guess < self._number else _LOWER
