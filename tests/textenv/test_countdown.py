import time
from collections import Counter
from fractions import Fraction
from itertools import permutations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from textenv.tasks.countdown import Countdown, evaluate

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


def all_expressions(numbers):
    """Every expression of these numbers in this order, with its value (None: x / 0)."""
    if len(numbers) == 1:
        yield str(numbers[0]), Fraction(numbers[0])
    for cut in range(1, len(numbers)):
        for left, a in all_expressions(numbers[:cut]):
            for right, b in all_expressions(numbers[cut:]):
                for sign, apply in APPLY.items():
                    undefined = a is None or b is None or (sign == "/" and b == 0)
                    yield f"({left}{sign}{right})", None if undefined else apply(a, b)


@pytest.mark.parametrize("numbers", [[2, 3], [4, 4], [3, 5, 3], [1, 1, 1], [9, 2, 7], [1, 2, 3, 4]])
def test_score_and_oracle_agree_with_brute_force(numbers):
    found = {pair for order in set(permutations(numbers)) for pair in all_expressions(order)}
    reachable = {value for _, value in found if value is not None}
    for text, value in found if len(numbers) < 4 else sorted(found, key=str)[::20]:
        for target in {1, 2, 24, int(value or 0)}:
            assert score(numbers, target, text) == float(value == target), text
    for target in range(1, 61):
        example = {"prompt": "", "numbers": numbers, "target": target}
        if target in reachable:
            assert task.score(example, task.oracle(example)) == 1.0
        else:
            with pytest.raises(ValueError, match=f"makes {target}$"):
                task.oracle(example)


@pytest.mark.parametrize("kwargs", [{}, {"numbers": 4, "max_number": 12, "max_target": 100}])
@pytest.mark.parametrize("split", ["train", "test"])
def test_examples_can_be_solved_by_brute_force(kwargs, split):
    made = Countdown(split=split, **kwargs)
    for example in (made.example(i) for i in range(15)):
        orders = set(permutations(example["numbers"]))
        assert any(v == example["target"] for o in orders for _, v in all_expressions(o))


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
    """With no more brackets than are needed."""
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
    ("text", "expected"),
    [
        ("3*(5+3)", 1.0),
        (" ( 3 + 5 ) * 3 ", 1.0),
        ("((3))*((5)+3)", 1.0),
        ("3*8", 0.0),  # 8 was not given
        ("24", 0.0),
        ("3*(5+3)*1", 0.0),  # one too many
        ("3*5+3*3", 0.0),  # a 3 too many
        ("5*5-3/3", 0.0),  # 24, but of other numbers
        ("3+5+3", 0.0),  # 11
        ("3*(5+3)=24", 0.0),
        ("3*(5+3", 0.0),
        ("3*5+3)", 0.0),
        ("3 5 3", 0.0),
        ("53-29", 0.0),
        ("", 0.0),
    ],
)
def test_making_24_of_3_5_3(text, expected):
    assert score([3, 5, 3], 24, text) == expected


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
def test_hostile_text_scores_nothing_at_once(text):
    start = time.perf_counter()
    for numbers, target in [([9, 9, 9], 1), ([1], 1), ([10], 10), ([1, 1], 1), ([1, 1], 2)]:
        assert score(numbers, target, text) == 0.0
    assert time.perf_counter() - start < 0.2


@given(st.text(st.sampled_from("0123456789+-*/() "), max_size=40) | st.text(max_size=40))
def test_any_text_at_all_gets_a_score(text):
    assert score([3, 5, 3], 24, text) in (0.0, 1.0)


@pytest.mark.parametrize("split", ["train", "test"])
def test_five_numbers_are_made_and_solved(split):
    made = Countdown(numbers=5, split=split)
    for example in (made.example(i) for i in range(20)):
        assert made.score(example, made.oracle(example)) == 1.0
