"""Verifiers of reasoning-gym that run a completion as Python, kept from doing so.

Four call ``eval`` on it, and five read it with SymPy, whose parser calls ``eval``: a policy could
run any code in the process that trains it.
"""

from __future__ import annotations

import ast
import re
import sys

_EVALUATE = ("binary_matrix", "n_queens", "spiral_matrix", "string_insertion")
_SYMPY = (
    "countdown",
    "intermediate_integration",
    "polynomial_multiplication",
    "puzzle24",
    "simple_integration",
)
_FUNCTIONS = (
    "sin cos tan sec csc cot asin acos atan sinh cosh tanh asinh acosh atanh exp log ln sqrt "
    "Abs abs erf pi oo Integral"
)
# Numbers, operators, and as names a letter or one of the functions. No dot before a letter, so
# no attribute; no quote and no underscore.
_FORMULA = re.compile(
    rf"(?:[\d\s+*/^(),=-]|\.(?!\s*[A-Za-z])|\b(?:[A-Za-z]|{_FUNCTIONS.replace(' ', '|')})\b)*",
    re.ASCII,
)


def defuse(dataset: str, module: str) -> None:
    """Have the verifier in a module read literals where it would run code."""
    if dataset in _EVALUATE:
        vars(sys.modules[module])["eval"] = ast.literal_eval


def is_safe(dataset: str, completion: str) -> bool:
    """Whether the dataset's verifier can be given a completion."""
    return dataset not in _SYMPY or _FORMULA.fullmatch(completion) is not None
