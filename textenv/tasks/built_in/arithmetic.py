"""The task ``arithmetic``: sums, differences and products, such as ``12+30=``."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from textenv.errors import ConfigError
from textenv.tasks.base import (
    MOST_LISTED,
    Example,
    GeneratedTask,
    check_range,
    check_split,
    check_style,
)


@dataclass(frozen=True)
class Arithmetic(GeneratedTask):
    """Compute sums, differences or products; by default the sum of two two-digit numbers.

    ## Description
    The prompt is a formula that ends with ``=``, and the answer is its value: ``12+30=`` is
    answered by ``42``. ``*`` binds tighter than ``+`` and ``-``. In style ``"chat"`` the prompt is
    ``What is 12+30? Reply with the number only.``, and the last number of a completion counts.

    ## Action Space
    `UnicodeText`: the value in digits. Spaces around it are ignored.

    ## Observation Space
    `UnicodeText`: the formula.

    ## Rewards
    1 for the right number, 0 for anything else.

    ## Starting State
    Numbers drawn uniformly from those with ``digits`` digits, and each operation drawn from
    ``operations``.

    ## Episode End
    Terminates after one action.

    ## Arguments
    As ``task_kwargs``: ``digits``, ``operands`` and ``operations``, described below; ``split`` and
    ``style``.
    The level is the number of ``digits``.

    ## Version History
    * v0: first version.
    """

    name = "arithmetic"
    levels = range(1, 13)
    knobs = ("digits",)
    chat_extract = "last_number"

    digits: int = 2
    """Number of digits of each operand; more is harder."""
    operands: int = 2
    """How many numbers the formula has."""
    operations: str = "+"
    """The operations to draw from, any of ``+-*``; a repeated one is drawn more often."""
    split: str = "train"
    style: str = "plain"
    """``"plain"``, or ``"chat"``, which asks in words."""

    def __post_init__(self) -> None:
        check_range("digits", self.digits, 1, 12)
        check_range("operands", self.operands, 2, 8)
        check_split(self.split)
        check_style(self.style)
        if not self.operations or set(self.operations) - set("+-*"):
            raise ConfigError(
                f"operations must be characters out of '+-*', got {self.operations!r}"
            )

    def generate(self, rng: random.Random) -> Example:
        """Draw the numbers and the operations of one formula."""
        numbers = [rng.randrange(*self._range) for _ in range(self.operands)]
        return _problem(numbers, [rng.choice(self.operations) for _ in numbers[1:]])

    def problems(self) -> Iterable[Example] | None:
        """All formulas with these settings; None if they are too many to list."""
        signs = len(self.operations) ** (self.operands - 1)
        if len(range(*self._range)) ** self.operands * signs > MOST_LISTED:
            return None
        return itertools.starmap(
            _problem,
            itertools.product(
                itertools.product(range(*self._range), repeat=self.operands),
                itertools.product(self.operations, repeat=self.operands - 1),
            ),
        )

    @property
    def _range(self) -> tuple[int, int]:
        return 10 ** (self.digits - 1) if self.digits > 1 else 0, 10**self.digits

    def split_key(self, example: Example) -> str:
        """The formula with its terms and factors sorted: their order makes no new problem."""
        terms = re.findall(r"([+-]?)([0-9*]+)", example["prompt"])
        factors = [(sign or "+", "*".join(sorted(term.split("*")))) for sign, term in terms]
        return "".join(sign + term for sign, term in sorted(factors)).removeprefix("+")

    def chat_prompt(self, example: Example) -> str:
        """The formula in a question."""
        return f"What is {example['prompt'][:-1]}? Reply with the number only."

    def score(self, example: Example, completion: str) -> float:
        """1 for the right number and nothing else but spaces around it."""
        return float(completion.strip() == example["answer"])


def _problem(numbers: Sequence[int], signs: Sequence[str]) -> Example:
    """The example with this formula; ``*`` binds tighter than ``+`` and ``-``."""
    text, total, term, sign = str(numbers[0]), 0, numbers[0], 1
    for operation, number in zip(signs, numbers[1:]):
        text += f"{operation}{number}"
        if operation == "*":
            term *= number
        else:
            total, term, sign = total + sign * term, number, 1 if operation == "+" else -1
    return {"prompt": f"{text}=", "answer": str(total + sign * term)}
