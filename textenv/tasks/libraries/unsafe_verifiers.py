"""Keeps verifiers of reasoning-gym from running a completion as code, or computing without end.

Four verifiers call ``eval`` on the completion, and five read it with SymPy, whose parser calls
``eval``. A policy could otherwise run any code in the process that trains it. Some of them, and
others, compute what is written, however large. The time limit of `textenv.rewards.limits` ends that
too, but more slowly.
"""

from __future__ import annotations

import ast
import re
import sys

from textenv.rewards.limits import is_bounded

_EVALUATE = ("binary_matrix", "n_queens", "spiral_matrix", "string_insertion")
_SYMPY = (
    "countdown",
    "intermediate_integration",
    "polynomial_multiplication",
    "puzzle24",
    "simple_integration",
)
_LONGEST_FORMULA = 2000  # characters
_HIGH_POWER = re.compile(r"(?:\*\*|\^)[\s(+-]*\d{3}")  # SymPy multiplies powers of sums out
_FUNCTIONS = (
    "sin cos tan sec csc cot asin acos atan sinh cosh tanh asinh acosh atanh exp log ln sqrt "
    "Abs abs erf pi oo Integral"
)
# Numbers and operators; the only names are single letters and these functions. A dot before a
# letter is not allowed, so there are no attributes; nor are quotes and underscores.
_FORMULA = re.compile(
    rf"(?:[\d\s+*/^(),=-]|\.(?!\s*[A-Za-z])|\b(?:[A-Za-z]|{_FUNCTIONS.replace(' ', '|')})\b)*",
    re.ASCII,
)


def defuse(dataset: str, module: str) -> None:
    """Replace ``eval`` in the module of a dataset's verifier by a function that reads literals."""
    if dataset in _EVALUATE:
        vars(sys.modules[module])["eval"] = ast.literal_eval


def is_safe(dataset: str, completion: str) -> bool:
    """Whether it is safe to pass a completion to the dataset's verifier."""
    if not is_bounded(completion):
        return False
    if dataset == "rush_hour":  # it makes so many moves
        return re.search(r"[+-]\d{3}", completion) is None
    if dataset not in _SYMPY:
        return True
    if len(completion) > _LONGEST_FORMULA or _HIGH_POWER.search(completion):
        return False
    return _FORMULA.fullmatch(completion) is not None
