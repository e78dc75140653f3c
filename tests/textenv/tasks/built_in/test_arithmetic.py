"""Sums, differences and products."""

import math
import re

import pytest


def test_the_splits_divide_a_small_task_completely(examples):
    train = {e["prompt"] for e in examples("arithmetic", 2000, digits=1)}
    test = {e["prompt"] for e in examples("arithmetic", 2000, "test", digits=1)}
    assert train | test == {f"{a}+{b}=" for a in range(10) for b in range(10)}
    assert len(train) + len(test) == 100
    assert 0 < len(test) < 30  # one problem in ten


def test_a_sum_and_difference_in_another_order_is_in_the_same_split(examples):
    kwargs = {"operands": 3, "operations": "+-", "digits": 1}
    keys = [
        {tuple(sorted(re.findall(r"[+-]\d", f"+{e['prompt']}"))) for e in examples(*of, **kwargs)}
        for of in (("arithmetic", 500, "train"), ("arithmetic", 500, "test"))
    ]
    assert not keys[0] & keys[1]


@pytest.mark.parametrize("digits", [1, 2, 5])
@pytest.mark.parametrize("operands", [2, 4])
@pytest.mark.parametrize("operations", ["+", "-", "+*", "+-*"])
def test_arithmetic_is_what_was_asked_for_and_right(digits, operands, operations, examples):
    kwargs = {"digits": digits, "operands": operands, "operations": operations}
    signs = set()
    for example in examples("arithmetic", 100, **kwargs):
        numbers = re.findall(r"\d+", example["prompt"])
        assert [len(number) for number in numbers] == [digits] * operands
        signs |= set(re.findall(r"[-+*]", example["prompt"]))
        terms = re.findall(r"(-?)([\d*]+)", example["prompt"].removesuffix("="))
        products = [(sign, math.prod(map(int, term.split("*")))) for sign, term in terms]
        assert example["answer"] == str(sum(-p if sign else p for sign, p in products))
    assert signs == set(operations)


def test_arithmetic_by_default_is_sums_of_two_numbers_of_two_digits(examples):
    prompts = [e["prompt"] for e in examples("arithmetic", 2000)]
    assert all(re.fullmatch(r"[1-9]\d\+[1-9]\d=", prompt) for prompt in prompts)
    firsts = {int(prompt[:2]) for prompt in prompts}
    assert firsts == set(range(10, 100))
