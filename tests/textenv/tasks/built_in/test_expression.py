"""Values of expressions, compared with Python's and with those of the tree they come from."""

import ast
import math
from collections import Counter
from fractions import Fraction
from types import SimpleNamespace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from textenv.tasks.built_in import expression
from textenv.tasks.built_in.countdown import Countdown
from textenv.tasks.built_in.expression import evaluate

APPLY = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
}
STRENGTH = {"+": 1, "-": 1, "*": 2, "/": 2}
task = Countdown()


def score(numbers, target, text):
    return task.score({"prompt": "", "numbers": numbers, "target": target}, text)


trees = st.recursive(
    st.integers(0, 99),
    lambda part: st.tuples(st.sampled_from("+-*/"), part, part),
    max_leaves=12,
)


def value_of(tree):
    return (
        APPLY[tree[0]](value_of(tree[1]), value_of(tree[2]))
        if type(tree) is tuple
        else Fraction(tree)
    )


def leaves(tree):
    return leaves(tree[1]) + leaves(tree[2]) if type(tree) is tuple else [tree]


def written(tree, space=""):
    """The tree as text, with only the brackets that it needs."""
    if type(tree) is int:
        return str(tree)
    sign, *parts = tree
    left, right = (written(part, space) for part in parts)
    strengths = [STRENGTH[part[0]] if type(part) is tuple else 3 for part in parts]
    left = f"({left})" if strengths[0] < STRENGTH[sign] else left
    right = f"({right})" if strengths[1] <= STRENGTH[sign] else right
    return f"{left}{space}{sign}{space}{right}"


@given(trees, st.sampled_from(["", " ", "  "]))
def test_expressions_follow_precedence(tree, space):
    text = written(tree, space)
    assume(len(text) <= 200)
    try:
        expected = value_of(tree)
    except ZeroDivisionError:
        with pytest.raises(ZeroDivisionError):
            evaluate(text)
        assert score(leaves(tree), 1, text) == 0.0
        return
    assert evaluate(text) == (expected, Counter(leaves(tree)))
    if expected.denominator == 1:
        assert score(leaves(tree), int(expected), text) == 1.0
        assert score([*leaves(tree), 1], int(expected), text) == 0.0
        assert score(leaves(tree)[1:], int(expected), text) == 0.0
        assert score(leaves(tree), int(expected) + 1, text) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9",
        "9**9**9**9",
        "__import__('os')",
        "().__class__",
        "(lambda:1)()",
        "exit()",
        "print(1)",
        "[1]*9",
        "1 if 1 else 1",
        "1;1",
        "1\n+1",
        "1#",
        "1,1",
        "(1,1)",
        "1(1)",
        "()",
        "1//1",
        "1%1",
        "1@1",
        "1<<1",
        "~1",
        "-1",
        "+1",
        "--1",
        "1-(-1)",
        "1_0",
        "0x1",
        "0b1",
        "1e0",
        "1.0",
        "1j",
        "01",
        "\uff11",
        "\u0663",
        "1²",
        "1\u00d71",
        "1\u22121",
        "1\0",
        "\ud800",
        "True",
        "...",
        "1/0",
        "1/(1-1)",
        "(" * 10_000 + "1" + ")" * 10_000,
        "(" * 150,
        "1" + "+1" * 10_000,
        "1" + "+1" * 1500,
        "*".join(["9" * 4000] * 100),
        "9" * 10_000,
        "9" * 200,
        "*".join("9" * 60),
        "1/" * 99 + "1",
    ],
)
def test_hostile_text_scores_nothing_and_costs_little(text, monkeypatch):
    """Only short texts are parsed, and no value has more digits than the text."""
    parsed, values = [], []
    value = expression._value

    def counted_parse(source, mode):
        parsed.append(source)
        return ast.parse(source, mode=mode)

    def counted_value(node, used):
        result = value(node, used)
        values.append(result)
        return result

    counted_ast = SimpleNamespace(**{**vars(ast), "parse": counted_parse})
    monkeypatch.setattr(expression, "ast", counted_ast)
    monkeypatch.setattr(expression, "_value", counted_value)
    for numbers, target in [([9, 9, 9], 1), ([1], 1), ([10], 10), ([1, 1], 1), ([1, 1], 2)]:
        parsed.clear(), values.clear()
        assert score(numbers, target, text) == 0.0
        assert len(parsed) <= 1 and len(values) <= 200
        for source in parsed:
            assert len(source) <= 200 and set(source) <= set("0123456789+-*/() ")
        for number in values:
            assert number.numerator < 10**202 and number.denominator < 10**202


# Text that is almost valid finds more errors than random text.
NEARLY = st.text("0123456789+-*/() \n=calc.eE", max_size=20)
ALL_UNICODE = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(NEARLY | ALL_UNICODE)
def test_an_expression_has_pythons_value_or_none(text):
    """Python is the oracle for texts that consist of digits, signs and brackets."""
    try:
        value, used = evaluate(text)
    except (ValueError, ZeroDivisionError):
        return
    assert set(text.strip()) <= set("0123456789+-*/() ")
    assert math.isclose(value, eval(text.strip()), rel_tol=1e-9)
    assert sum(used.values()) >= 1


@given(st.recursive(st.integers(0, 50).map(str), lambda inner: st.builds(
    "({}{}{})".format, inner, st.sampled_from("+-*/"), inner), max_leaves=8))  # fmt: skip
def test_every_expression_of_numbers_is_read(text):
    try:
        expected = eval(text)
    except ZeroDivisionError:
        expected = None
    try:
        value = evaluate(text)[0]
    except ZeroDivisionError:
        value = None
    except ValueError:
        assert len(text) > 200
        return
    if expected is None or value is None:
        # A float may differ slightly from zero when the exact fraction is zero, or be zero itself.
        return
    assert math.isclose(value, expected, rel_tol=1e-6, abs_tol=1e-9)
