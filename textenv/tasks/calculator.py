"""The task ``calculator``: compute ``a*b+c``, with a tool that may be called before answering."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from textenv.tasks.base import Episode, Example, GeneratedTask, Turn, check_range, check_split
from textenv.tasks.expression import evaluate

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
    brackets; or the answer in digits. Spaces around it are ignored.

    ## Observation Space
    `UnicodeText`: the transcript with the tool's results, or with what is wrong with a call.

    ## Rewards
    1 for the right answer, 0 for a wrong one and for a call of the tool.

    ## Starting State
    Three numbers drawn uniformly from those with ``digits`` digits.

    ## Episode End
    Terminates with the answer, right or wrong. Truncates after ``max_turns`` actions without one.

    ## Arguments
    As ``task_kwargs``: ``digits`` and ``max_turns``, described below; and ``split``.
    The level is the number of ``digits``.

    ## Version History
    * v0: first version.
    """

    name = "calculator"
    levels = range(1, 10)
    knobs = ("digits",)

    digits: int = 2
    """Number of digits of each number; more is harder."""
    max_turns: int = 4
    """Actions in an episode, tool calls and the answer together; then it is truncated."""
    split: str = "train"

    def __post_init__(self) -> None:
        check_range("digits", self.digits, 1, 9)
        check_range("max_turns", self.max_turns, 1, 1000)
        check_split(self.split)

    def generate(self, rng: random.Random) -> Example:
        """Draw the numbers of one problem ``a*b+c``."""
        low = 10 ** (self.digits - 1)
        a, b, c = (rng.randrange(low, 10 * low) for _ in range(3))
        prompt = f"{a}*{b}+{c}, tool calc(EXPRESSION):\n"
        return {"prompt": prompt, "answer": str(a * b + c)}

    def score(self, example: Example, completion: str) -> float:
        """1 for the right number and nothing else but spaces around it."""
        return float(completion.strip() == example["answer"])

    def begin(self, example: Example) -> Episode:
        """Start an episode, in which the policy may call the tool before it answers."""
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
