"""Expressions of given numbers with a given value."""

from fractions import Fraction
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textenv.tasks.built_in.countdown import Countdown

APPLY = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
}
task = Countdown()


def score(numbers, target, text):
    return task.score({"prompt": "", "numbers": numbers, "target": target}, text)


def all_expressions(numbers):
    """All expressions of these numbers in this order, with their values (None if x / 0)."""
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


@given(st.text(st.sampled_from("0123456789+-*/() "), max_size=40) | st.text(max_size=40))
def test_any_text_at_all_gets_a_score(text):
    assert score([3, 5, 3], 24, text) in (0.0, 1.0)


@pytest.mark.parametrize("split", ["train", "test"])
def test_five_numbers_are_made_and_solved(split):
    made = Countdown(numbers=5, split=split)
    for example in (made.example(i) for i in range(20)):
        assert made.score(example, made.oracle(example)) == 1.0


def test_countdown_is_what_was_asked_for(examples):
    found = examples("countdown", numbers=4, max_number=7, max_target=9)
    for example in found:
        assert example["prompt"] == (
            f"make {example['target']} from {' '.join(map(str, example['numbers']))}="
        )
        assert len(example["numbers"]) == 4
    assert {n for e in found for n in e["numbers"]} == set(range(1, 8))
    assert {e["target"] for e in found} == set(range(1, 10))
