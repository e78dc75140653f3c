"""The answer of an example as text and as a number."""

import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textenv.rewards.answers import as_number, as_text, texts_of, why_missing


@pytest.mark.parametrize(
    ("answer", "texts"),
    [
        ("4", ["4"]),
        (4, ["4"]),
        (4.0, ["4", "4.0"]),
        (np.float64(-7), ["-7", "-7.0"]),
        ("4.0", ["4", "4.0"]),
        ("4.00", ["4.00"]),
        (4.5, ["4.5"]),
        (" a ", ["a"]),
        (True, ["True"]),
    ],
)
def test_the_texts_that_equal_an_answer(answer, texts):
    assert texts_of(answer) == texts


@given(st.integers(-(2**53), 2**53))
def test_a_whole_float_is_the_text_of_the_integer(number):
    assert as_text(float(number)) == str(number) == texts_of(float(number))[0]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_comes_back_from_its_text(number):
    assert as_number(repr(number)) == number == as_number(number)
    if abs(number) < 1e15:
        text = f"{number:,.6f}"  # Python's own commas
        assert math.isclose(as_number(text), float(text.replace(",", "")))


@given(st.text())
def test_a_text_is_a_number_only_if_python_reads_it_too(text):
    number = as_number(text)
    if number is not None:
        assert number == float(text.replace(",", "")) and "_" not in text


def test_what_is_missing():
    for answer in (None, "", " ", math.nan, np.float32("nan"), Decimal("nan")):
        assert "is missing" in why_missing({"answer": answer})
    for answer in (0, "0", False, 0.0, "None", Decimal(1)):
        assert why_missing({"answer": answer}) is None
    assert why_missing({}) is None  # `requires` reports a key that is not there
