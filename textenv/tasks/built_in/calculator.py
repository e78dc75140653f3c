"""The task ``calculator``: compute ``a*b+c``, with a tool that may be called before answering."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from textenv.tasks.base import (
    Episode,
    Example,
    GeneratedTask,
    Turn,
    check_range,
    check_split,
    check_style,
)
from textenv.tasks.built_in.expression import evaluate

_CALL = re.compile(r"\s*calc\((.*)\)\s*", re.DOTALL)


@dataclass(frozen=True)
class Calculator(GeneratedTask):
    """Compute ``a*b+c``; the action ``calc(EXPRESSION)`` calls a tool that shows a value.

    ## Description
    The numbers are large enough to make a tool useful. An action such as ``calc(12*34)`` calls it,
    and the next line of the transcript is the value. Any other action is the answer:
    ``12*34+56, tool calc(EXPRESSION):`` is answered by ``464``.

    ## Action Space
    `UnicodeText`: a call of the tool, whose expression has whole numbers, ``+ - * /`` and
    brackets; or the answer in digits. Spaces around it are ignored. In style ``"chat"`` it is a
    call of the tool ``calculator``, or an answer whose last number counts.

    ## Observation Space
    `UnicodeText`: the transcript with the tool's results, or with what is wrong with a call.

    ## Rewards
    1 for the right answer, 0 for a wrong one and for a call of the tool.

    ## Starting State
    Three numbers drawn uniformly from those with ``digits`` digits.

    ## Episode End
    Terminates with the answer, right or wrong. Truncates after ``max_turns`` actions without one.

    ## Arguments
    As ``task_kwargs``: ``digits`` and ``max_turns``, described below; ``split`` and ``style``.
    The level is the number of ``digits``.

    ## Version History
    * v0: first version.
    """

    name = "calculator"
    levels = range(1, 10)
    knobs = ("digits",)
    chat_extract = "last_number"

    digits: int = 2
    """Number of digits of each number; more is harder."""
    max_turns: int = 4
    """Actions in an episode, tool calls and the answer together; then it is truncated."""
    split: str = "train"
    style: str = "plain"
    """``"plain"``, or ``"chat"``, which asks in words and has the tool as chat models know them."""

    def __post_init__(self) -> None:
        check_range("digits", self.digits, 1, 9)
        check_range("max_turns", self.max_turns, 1, 1000)
        check_split(self.split)
        check_style(self.style)

    def generate(self, rng: random.Random) -> Example:
        """Draw the numbers of one problem ``a*b+c``."""
        low = 10 ** (self.digits - 1)
        a, b, c = (rng.randrange(low, 10 * low) for _ in range(3))
        prompt = f"{a}*{b}+{c}, tool calc(EXPRESSION):\n"
        return {"prompt": prompt, "answer": str(a * b + c)}

    def chat_prompt(self, example: Example) -> str:
        """The problem as a question."""
        expression = example["prompt"].partition(",")[0]
        return f"What is {expression}? Use the calculator, then reply with the number only."

    @property
    def tools(self) -> Sequence[Callable[..., Any]]:
        """In style ``"chat"``, the function `calculator`."""
        return (calculator,) if self.style == "chat" else ()

    def score(self, example: Example, completion: str) -> float:
        """1 for the right number and nothing else but spaces around it."""
        return float(completion.strip() == example["answer"])

    def is_answer(self, action: str) -> bool:
        """Whether an action is anything but a call ``calc(...)`` of style ``"plain"``."""
        return self.style == "chat" or _CALL.fullmatch(action) is None

    def begin(self, example: Example) -> Episode:
        """Start an episode, in which the policy may call the tool before it answers."""
        return super().begin(example) if self.style == "chat" else _Calculating(self, example)


def calculator(expression: str) -> str:
    """Compute the value of an arithmetic expression.

    Args:
        expression: whole numbers with + - * / and brackets, such as "12*34+56"
    """
    return str(evaluate(expression)[0])


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
