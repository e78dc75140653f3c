"""calculator: a product too large for the head, and a tool to call before answering."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from textenv.tasks.base import Episode, Example, GeneratedTask, Turn, check_range, check_split
from textenv.tasks.expression import evaluate

_CALL = re.compile(r"\s*calc\((.*)\)\s*", re.DOTALL)


@dataclass(frozen=True)
class Calculator(GeneratedTask):
    """Answer a sum of products; ``calc(EXPRESSION)`` as an action shows a result first."""

    name = "calculator"

    digits: int = 2
    """Digits of each number; more is harder."""
    max_turns: int = 4
    """Actions before the episode is truncated, tool calls and the answer together."""
    split: str = "train"

    def __post_init__(self) -> None:
        check_range("digits", self.digits, 1, 9)
        check_range("max_turns", self.max_turns, 1, 1000)
        check_split(self.split)

    def generate(self, rng: random.Random) -> Example:
        """Draw ``a*b+c``."""
        low = 10 ** (self.digits - 1)
        a, b, c = (rng.randrange(low, 10 * low) for _ in range(3))
        prompt = f"{a}*{b}+{c}, tool calc(EXPRESSION):\n"
        return {"prompt": prompt, "answer": str(a * b + c)}

    def score(self, example: Example, completion: str) -> float:
        """1 for the right number and nothing else, spaces aside."""
        return float(completion.strip() == example["answer"])

    def begin(self, example: Example) -> Episode:
        """Start: the policy may call the tool, and then answers."""
        return _Calculating(self, example)


class _Calculating(Episode):
    def __init__(self, task: Calculator, example: Example):
        self._task = task
        self._example = example

    def step(self, action: str) -> Turn:
        """Show the result of a tool call, or score an answer."""
        call = _CALL.fullmatch(action)
        if call is None:
            return Turn("", self._task.score(self._example, action), True)
        try:
            value, _ = evaluate(call.group(1))
        except (ValueError, ZeroDivisionError) as error:
            return Turn(f"\nerror: {error}\n", 0.0, False)
        return Turn(f"\n{value}\n", 0.0, False)
