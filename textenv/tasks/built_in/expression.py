"""Computes the value of an arithmetic expression in a text, without running it as code."""

from __future__ import annotations

import ast
import re
from collections import Counter
from fractions import Fraction

_EXPRESSION = re.compile(r"[0-9+\-*/() ]{1,200}")


def evaluate(text: str) -> tuple[Fraction, Counter[int]]:
    """The exact value of an expression, and how often each number is used in it.

    Raises:
        ValueError: if the text is not an expression of whole numbers, + - * / and brackets, or
            is longer than 200 characters.
        ZeroDivisionError: if it divides by zero.
    """
    text = text.strip()
    if not _EXPRESSION.fullmatch(text):
        raise ValueError("not an expression of numbers, + - * / and brackets")
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"not an expression: {error}") from error
    used: Counter[int] = Counter()
    return _value(tree.body, used), used


def _value(node: ast.expr, used: Counter[int]) -> Fraction:
    match node:
        case ast.Constant(value=int(number)):
            used[number] += 1
            return Fraction(number)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _value(left, used) + _value(right, used)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _value(left, used) - _value(right, used)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _value(left, used) * _value(right, used)
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return _value(left, used) / _value(right, used)
        case _:
            raise ValueError(f"{type(node).__name__} is not allowed in an expression")
