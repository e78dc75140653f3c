"""Quantities as people write them, and what must not be taken for one."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textenv.rewards.quantities import as_quantity, same_unit, without_stop


@pytest.mark.parametrize(
    ("text", "digits", "unit"),
    [
        ("42", "42", ""),
        (" 42. ", "42", ""),
        ("+5", "5", ""),
        ("-5", "-5", ""),
        ("\u22125", "-5", ""),
        ("1,000", "1000", ""),
        ("1{,}000.5", "1000.5", ""),
        (".5", ".5", ""),
        ("1e3", "1e3", ""),
        ("**42**", "42", ""),
        ("$42$", "42", ""),
        ("42 apples", "42", "apple"),
        ("42 Apples.", "42", "apple"),
        ("42 red apples", "42", "red apple"),
        ("$42", "42", "dollar"),
        (r"\$42", "42", "dollar"),
        ("-$1,234.50", "-1234.50", "dollar"),
        ("$-3", "-3", "dollar"),
        ("42 dollars", "42", "dollar"),
        ("42 USD", "42", "dollar"),
        ("€42", "42", "euro"),
        ("42%", "42", "percent"),
        (r"42\%", "42", "percent"),
        ("42 percent", "42", "percent"),
        ("42 km", "42", "km"),
        ("42km/h", "42", "km/h"),
        ("42 m^2", "42", "m²"),
        ("42 m²", "42", "m²"),
        ("42 °C", "42", "°C"),
        ("42 miles per hour", "42", "mile per hour"),
        ("42 mW", "42", "mW"),
        ("42 MW", "42", "MW"),
    ],
)
def test_quantities_by_hand(text, digits, unit):
    found = as_quantity(text)
    assert (found.digits, found.value, found.unit) == (digits, float(digits), unit)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "apples",
        "nan",
        "inf",
        "1e999",
        "4_2",
        "1,00",
        "4 2",
        "--5",
        "-+5",
        "42..",
        # what follows changes the number, or gives another one
        "42 million",
        "42k",
        "42K",
        "42M",
        "42B",
        "3 dozen",
        "42x",
        "5!",
        "42?",
        "42 or 43",
        "42 and 43",
        "42, 43",
        "42-43",
        "42 to 43",
        "42 and a half",
        "42 is wrong",
        "42 plus one",
        "1/2",
        "½",
        "2^3",
        "42 apples, 3 pears",
        "$42 euros",
        "the answer is 42",
        "42\n43",
        "9" * 1_000_000,
    ],
)
def test_what_is_no_quantity(text):
    assert as_quantity(text) is None


def test_units_differ_only_if_both_are_there():
    km, m, bare = map(as_quantity, ("42 km", "42 m", "42"))
    assert same_unit(km, km) and same_unit(km, bare) and same_unit(bare, m)
    assert not same_unit(km, m)
    assert not same_unit(as_quantity("42 mW"), as_quantity("42 MW"))
    assert same_unit(as_quantity("$5"), as_quantity("5 Dollars"))


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["{}", "{}.", "{} km"]))
def test_a_number_of_python_is_that_number(number, around):
    assert as_quantity(around.format(number)).value == number
    if math.isfinite(number) and abs(number) < 1e15:
        assert as_quantity(f"{number:,.3f}").value == float(f"{number:.3f}")


@given(st.text())
def test_a_quantity_is_always_finite_and_its_digits_are_its_value(text):
    found = as_quantity(text)
    assert found is None or (math.isfinite(found.value) and float(found.digits) == found.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Paris.", "Paris"),
        (" Paris . ", "Paris"),
        ("a..", "a.."),
        (".", ""),
        ("", ""),
        ("3.5", "3.5"),
    ],
)
def test_one_closing_full_stop_goes(text, expected):
    assert without_stop(text) == expected
