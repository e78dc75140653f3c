"""The task ``sort``: put numbers in ascending order."""

from __future__ import annotations

import random
from dataclasses import dataclass

from textenv.tasks.base import Example, GeneratedTask, check_range, check_split, check_style


@dataclass(frozen=True)
class Sort(GeneratedTask):
    """Put whole numbers in ascending order.

    ## Description
    ``sort 52 7 31=`` is answered by ``7 31 52``. A number that occurs twice must also occur twice
    in the answer. In style ``"chat"`` the prompt is ``Sort these numbers in ascending order: 52, 7,
    31. Reply with the sorted numbers only, separated by spaces.`` The last numbers in a row of a
    completion count, with spaces or commas between them.

    ## Action Space
    `UnicodeText`: the numbers, separated by one or more spaces.

    ## Observation Space
    `UnicodeText`: the numbers.

    ## Rewards
    1 for all numbers in order, 0 for anything else.

    ## Starting State
    A count drawn uniformly from ``min_count`` to ``max_count``, then that many numbers from 0 to
    ``max_number``.

    ## Episode End
    Terminates after one action.

    ## Arguments
    As ``task_kwargs``: ``min_count``, ``max_count`` and ``max_number``, described below;
    ``split`` and ``style``. The level is ``max_count``, and ``min_count`` changes with it.

    ## Version History
    * v0: first version.
    """

    name = "sort"
    levels = range(1, 1001)
    knobs = ("min_count", "max_count")
    chat_extract = r"regex:(?<![0-9.-])[0-9]+(?:(?:, *| +)[0-9]+)*"

    min_count: int = 3
    """Fewest numbers in a list."""
    max_count: int = 4
    """Most numbers in a list; more is harder."""
    max_number: int = 99
    """The largest number that can occur."""
    split: str = "train"
    style: str = "plain"
    """``"plain"``, or ``"chat"``, which asks in words."""

    def __post_init__(self) -> None:
        check_range("min_count", self.min_count, 1, 1000)
        check_range("max_count", self.max_count, self.min_count, 1000)
        check_range("max_number", self.max_number, 1, 10**9)
        check_split(self.split)
        check_style(self.style)

    def generate(self, rng: random.Random) -> Example:
        """Draw a count, then the numbers, which may repeat."""
        count = rng.randint(self.min_count, self.max_count)
        numbers = [rng.randint(0, self.max_number) for _ in range(count)]
        return {
            "prompt": f"sort {' '.join(map(str, numbers))}=",
            "answer": " ".join(map(str, sorted(numbers))),
        }

    def split_key(self, example: Example) -> str:
        """The sorted numbers: their order makes no new problem."""
        return example["answer"]

    def chat_prompt(self, example: Example) -> str:
        """The numbers in a sentence."""
        numbers = example["prompt"].removeprefix("sort ").removesuffix("=").replace(" ", ", ")
        return (
            f"Sort these numbers in ascending order: {numbers}. "
            "Reply with the sorted numbers only, separated by spaces."
        )

    def score(self, example: Example, completion: str) -> float:
        """1 for all numbers in ascending order, separated by spaces, else 0.

        In style ``"chat"`` commas may separate them too.
        """
        if self.style == "chat":
            completion = completion.replace(",", " ")
        return float(completion.split() == example["answer"].split())
