"""countdown: ``make 24 from 3 5 3=`` is answered by ``3*(5+3)``."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations

from textenv.errors import ConfigError
from textenv.tasks.base import Example, GeneratedTask, check_range, check_split
from textenv.tasks.expression import evaluate


@dataclass(frozen=True)
class Countdown(GeneratedTask):
    """Reach a target from given numbers, each used once, with ``+ - * /`` and brackets.

    ## Description
    ``make 24 from 3 5 3=`` is answered by ``3*(5+3)``, or by any other expression of exactly these
    numbers with this value. A number that is given twice is used twice.

    ## Action Space
    `UnicodeText`: an expression of at most 200 characters.

    ## Observation Space
    `UnicodeText`: the target and the numbers.

    ## Rewards
    1 for an expression of the given numbers that equals the target exactly, 0 for anything else.

    ## Starting State
    Numbers drawn uniformly up to ``max_number``, combined at random until a target up to
    ``max_target`` comes out: so there always is a solution.

    ## Episode End
    Terminates after one action.

    ## Arguments
    As ``task_kwargs``: ``numbers``, ``max_number`` and ``max_target``, described below; and
    ``split``. A level is how many ``numbers`` are given.

    ## Version History
    * v0: first version.
    """

    name = "countdown"
    levels = range(2, 6)
    knobs = ("numbers",)

    numbers: int = 3
    """How many numbers are given; more is harder."""
    max_number: int = 9
    """The largest number that is given."""
    max_target: int = 60
    """The largest target."""
    split: str = "train"

    def __post_init__(self) -> None:
        check_range("numbers", self.numbers, 2, 5)  # more take the oracle minutes
        check_range("max_number", self.max_number, 2, 1000)
        check_range("max_target", self.max_target, 1, 10**6)
        check_split(self.split)

    def generate(self, rng: random.Random) -> Example:
        """Combine random numbers at random until a target in range comes out."""
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
        """The same numbers in another order are the same problem."""
        return f"{example['target']}:{sorted(example['numbers'])}"

    def score(self, example: Example, completion: str) -> float:
        """1 for an expression of exactly the given numbers that equals the target."""
        try:
            value, used = evaluate(completion)
        except (ValueError, ZeroDivisionError):
            return 0.0
        return float(value == example["target"] and used == Counter(example["numbers"]))

    def oracle(self, example: Example) -> str:
        """Find an expression by exhaustive search over pairs of what is left."""
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
