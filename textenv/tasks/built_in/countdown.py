"""The task ``countdown``: an expression of given numbers with a given value."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations

from textenv.errors import ConfigError
from textenv.tasks.base import Example, GeneratedTask, check_range, check_split, check_style
from textenv.tasks.built_in.expression import evaluate


@dataclass(frozen=True)
class Countdown(GeneratedTask):
    """Reach a target from given numbers, each used once, with ``+ - * /`` and brackets.

    ## Description
    ``make 24 from 3 5 3=`` is answered by ``3*(5+3)``, or by any other expression of exactly these
    numbers with this value. A number that is given twice must be used twice. In style ``"chat"``
    the prompt says so in words, and the last line of a completion counts.

    ## Action Space
    `UnicodeText`: an expression of at most 200 characters.

    ## Observation Space
    `UnicodeText`: the target and the numbers.

    ## Rewards
    1 for an expression of the given numbers with exactly the target as its value, 0 for anything
    else.

    ## Starting State
    Numbers drawn uniformly from 1 to ``max_number``, which are combined at random until the value
    is a target up to ``max_target``. Every problem therefore has a solution.

    ## Episode End
    Terminates after one action.

    ## Arguments
    As ``task_kwargs``: ``numbers``, ``max_number`` and ``max_target``, described below;
    ``split`` and ``style``. The level is how many ``numbers`` are given.

    ## Version History
    * v0: first version.
    """

    name = "countdown"
    levels = range(2, 6)
    knobs = ("numbers",)
    chat_extract = "line:last"

    numbers: int = 3
    """How many numbers are given; more is harder."""
    max_number: int = 9
    """The largest number that can be given."""
    max_target: int = 60
    """The largest target."""
    split: str = "train"
    style: str = "plain"
    """``"plain"``, or ``"chat"``, which asks in words."""

    def __post_init__(self) -> None:
        check_range("numbers", self.numbers, 2, 5)  # for more, the oracle takes minutes
        check_range("max_number", self.max_number, 2, 1000)
        check_range("max_target", self.max_target, 1, 10**6)
        check_split(self.split)
        check_style(self.style)

    def generate(self, rng: random.Random) -> Example:
        """Draw numbers and combine them at random until the value is a target in range."""
        for _ in range(10_000):
            numbers = [rng.randint(1, self.max_number) for _ in range(self.numbers)]
            values = [Fraction(n) for n in numbers]
            while len(values) > 1:
                a = values.pop(rng.randrange(len(values)))
                b = values.pop(rng.randrange(len(values)))
                operation = rng.choice("+-*/" if b else "+-*")
                values.append(_apply(operation, a, b))
            target = values[0]
            if target.denominator == 1 and 1 <= target <= self.max_target:
                prompt = f"make {target} from {' '.join(map(str, numbers))}="
                return {"prompt": prompt, "numbers": numbers, "target": int(target)}
        raise ConfigError(
            f"{self.numbers} numbers up to {self.max_number} hardly ever make a target up to "
            f"{self.max_target}: raise max_target"
        )

    def split_key(self, example: Example) -> str:
        """The target and the sorted numbers: their order makes no new problem."""
        return f"{example['target']}:{sorted(example['numbers'])}"

    def chat_prompt(self, example: Example) -> str:
        """The rules in words."""
        *most, last = map(str, example["numbers"])
        return (
            f"Use each of the numbers {', '.join(most)} and {last} exactly once, with + - * / and "
            f"brackets, to make {example['target']}. Write the expression alone on the last line."
        )

    def score(self, example: Example, completion: str) -> float:
        """1 for an expression of exactly the given numbers whose value is the target, else 0.

        In style ``"chat"`` it may be written as equal to the target: ``3*(5+3) = 24``.
        """
        if self.style == "chat":
            sides = [side.strip() for side in completion.strip().removesuffix(".").split("=")]
            if len(sides) == 2 and (target := str(example["target"])) in sides:
                sides.remove(target)
            completion = sides[0] if len(sides) == 1 else ""
        try:
            value, used = evaluate(completion)
        except (ValueError, ZeroDivisionError):
            return 0.0
        return float(value == example["target"] and used == Counter(example["numbers"]))

    def oracle(self, example: Example) -> str:
        """An expression with the target as its value, found by exhaustive search."""
        found = _search([(Fraction(n), str(n)) for n in example["numbers"]], example["target"])
        if found is None:
            raise ValueError(f"no expression of {example['numbers']} makes {example['target']}")
        return found


def _apply(operation: str, a: Fraction, b: Fraction) -> Fraction:
    match operation:
        case "+":
            return a + b
        case "-":
            return a - b
        case "*":
            return a * b
        case _:
            return a / b


def _search(parts: list[tuple[Fraction, str]], target: int) -> str | None:
    if len(parts) == 1:
        value, text = parts[0]
        return text.removeprefix("(").removesuffix(")") if value == target else None
    for i, j in combinations(range(len(parts)), 2):
        rest = [part for k, part in enumerate(parts) if k not in (i, j)]
        for (a, left), (b, right) in ((parts[i], parts[j]), (parts[j], parts[i])):
            for operation in "+-*/":
                if operation == "/" and b == 0:
                    continue
                joined = (_apply(operation, a, b), f"({left}{operation}{right})")
                found = _search([*rest, joined], target)
                if found is not None:
                    return found
    return None
