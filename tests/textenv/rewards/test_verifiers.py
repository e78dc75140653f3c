"""The reward functions that come with the package, by hand and by property."""

import math
import sys

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import textenv
from textenv import rewards
from textenv.errors import ConfigError, DataError, MissingDependencyError, RewardError
from textenv.rewards import Reward


def score(name, completion, example):
    """Total, components, and whether it is correct."""
    return Reward(name)("2+2=", completion, example)


@pytest.mark.parametrize(
    ("name", "completion", "answer", "expected"),
    [
        ("exact_match", "4", "4", 1.0),
        ("exact_match", " 4\n", "4", 1.0),
        ("exact_match", "4", " 4 ", 1.0),
        ("exact_match", "4", 4, 1.0),
        ("exact_match", "4.0", "4", 0.0),
        ("exact_match", "Paris", "paris", 0.0),
        ("exact_match", "is 4", "4", 0.0),
        ("contains", "the answer is 4.", 4, 1.0),
        ("contains", "the answer is five", "4", 0.0),
        ("contains", "Paris", "paris", 0.0),
        ("contains", "", "4", 0.0),
        ("numeric_match", "4.0", "4", 1.0),
        ("numeric_match", " 4e0 ", 4, 1.0),
        ("numeric_match", "-0.5", "-.5", 1.0),
        ("numeric_match", "1000000.5", "1000000", 1.0),  # off by 5e-7 of it
        ("numeric_match", "1000002", "1000000", 0.0),  # off by 2e-6 of it
        ("numeric_match", "-4", "4", 0.0),
        ("numeric_match", "four", "4", 0.0),
        ("numeric_match", "4 apples", "4", 1.0),
        ("numeric_match", "4 apples, 5 pears", "4", 0.0),
        ("numeric_match", "", "4", 0.0),
        ("numeric_match", "nan", "nan", 0.0),
        ("length", "", "4", 0.0),
        ("length", "né🙂", "4", 3.0),
    ],
)
def test_named_functions_by_hand(name, completion, answer, expected):
    total, components, correct = score(name, completion, {"answer": answer})
    assert (total, components) == (expected, {name: expected})
    assert correct is (None if name == "length" else expected == 1.0)


@pytest.mark.parametrize(
    ("completion", "answer", "exact", "numeric"),
    [
        # equal, however they are written
        ("42", "42", 1, 1),
        ("42.", "42", 1, 1),
        ("42", "42.", 1, 1),
        ("42 apples", "42", 1, 1),
        ("42", "42 apples", 1, 1),
        ("42 apples.", "42 Apples", 1, 1),
        ("$42", "42", 1, 1),
        ("$42", "42 dollars", 1, 1),
        ("-$42", "-42", 1, 1),
        ("42%", "42", 1, 1),
        ("50%", "50 percent", 1, 1),
        (r"50\%", "50%", 1, 1),
        ("42 km", "42km", 1, 1),
        ("1,000", "1000", 1, 1),
        ("1000", "1,000", 1, 1),
        ("$1,234.50", "1234.50", 1, 1),
        ("+5", "5", 1, 1),
        ("\u22125", "-5", 1, 1),
        ("**42**", "42", 1, 1),
        ("$42$", "42", 1, 1),
        # one number with other digits
        ("42.0", "42", 0, 1),
        ("0.5", ".5", 0, 1),
        ("1e3", "1000", 0, 1),
        ("007", "7", 0, 1),
        ("$42.00", "42", 0, 1),
        # what a wrong grader gives full marks
        ("42", "4", 0, 0),
        ("4", "42", 0, 0),
        ("42", "142", 0, 0),
        ("1,000", "1", 0, 0),
        ("1", "1,000", 0, 0),
        ("1,000", "1.000", 0, 0),
        ("-5", "5", 0, 0),
        ("5", "-5", 0, 0),
        ("-$5", "5", 0, 0),
        ("50%", "0.5", 0, 0),
        ("0.5", "50%", 0, 0),
        ("0.5", "5", 0, 0),
        ("42 km", "42 m", 0, 0),
        ("42%", "42 km", 0, 0),
        ("$42", "42 euros", 0, 0),
        ("42 mW", "42 MW", 0, 0),
        ("42 million", "42", 0, 0),
        ("42k", "42", 0, 0),
        ("42x", "42", 0, 0),
        ("5!", "5", 0, 0),
        ("42 or 43", "42", 0, 0),
        ("41, 42", "42", 0, 0),
        ("42-43", "42", 0, 0),
        ("not 42", "42", 0, 0),
        ("1/2", "2", 0, 0),
        ("2", "1/2", 0, None),
        ("1e3", "1", 0, 0),
        ("42..", "42", 0, 0),
        ("4 2", "42", 0, 0),
        ("", "42", 0, 0),
        (".", "42", 0, 0),
        ("nan", "42", 0, 0),
        ("inf", "42", 0, 0),
        ("nan", "nan", 1, None),  # a text like any other, and no number
        # texts
        ("Paris.", "Paris", 1, None),
        ("Paris", "Paris.", 1, None),
        ("Paris..", "Paris", 0, None),
        ("", ".", 0, None),
        ("Paris, France", "Paris", 0, None),
        ("paris", "Paris", 0, None),
    ],
)
def test_what_is_equal_to_what(completion, answer, exact, numeric):
    assert score("exact_match", completion, {"answer": answer})[0] == exact
    if numeric is not None:
        assert score("numeric_match", completion, {"answer": answer})[0] == numeric
    assert score("contains", completion, {"answer": answer})[0] >= exact


NUMBERS = st.integers(-2000, 2000)
UNITS = st.sampled_from(["", "", "apples", "km", "m", "%", "$"])


@given(NUMBERS, NUMBERS, UNITS, UNITS, st.booleans(), st.sampled_from(["{:,}", "{}", "{}."]))
def test_quantities_are_equal_if_their_numbers_are_and_no_units_differ(a, b, of_a, of_b, same, how):
    b = a if same else b

    def written(number, unit):
        text = how.replace(".", "").format(number)
        if unit == "$":
            text = text.replace("-", "-$") if number < 0 else f"${text}"
        elif unit:
            text = f"{text} {unit}"
        return text + "." * how.endswith(".")

    expected = float(a == b and (of_a == of_b or "" in (of_a, of_b)))
    example = {"answer": f"{b} {of_b}" if of_b not in ("", "$") else written(b, of_b)}
    for name in ("exact_match", "numeric_match"):
        assert score(name, written(a, of_a), example)[0] == expected


@pytest.mark.parametrize(("completion", "expected"), [("4.5", 1.0), ("3.5", 1.0), ("4.6", 0.0)])
def test_numeric_match_within_an_absolute_tolerance(completion, expected):
    assert score("numeric_match", completion, {"answer": 4, "tolerance": 0.5})[0] == expected


@given(st.integers(-(10**15), 10**15), st.sampled_from(["{}", " {} ", "{}.0", "{:e}", "{:+}"]))
def test_numeric_match_knows_a_number_in_any_notation(number, notation):
    expected = math.isclose(float(notation.format(number)), number, rel_tol=1e-6)
    assert score("numeric_match", notation.format(number), {"answer": number})[0] == expected


@given(st.text(), st.text().filter(str.strip))
def test_matches_agree_with_each_other(completion, answer):
    exact = score("exact_match", completion, {"answer": answer})[0]
    assert score("contains", completion, {"answer": answer})[0] >= exact
    assert score("contains", f"so {answer}!", {"answer": answer})[0] == 1.0


@pytest.mark.parametrize("name", ["exact_match", "contains", "numeric_match", "math_equal"])
@pytest.mark.parametrize("answer", [None, "", " \n", math.nan, np.float32("nan"), [], {"a": 1}])
def test_an_answer_that_is_missing_is_named_before_the_first_episode(name, answer):
    examples = [{"answer": "4"}, {"answer": answer}]
    with pytest.raises(DataError, match=r"row 1: 'answer' .*; reward_fn=.*needs it"):
        gym.make("textenv:TextGen-v0", prompts=["a", "b"], examples=examples, reward_fn=name)
    pytest.importorskip("math_verify")
    with pytest.raises(ValueError, match=r"'a prompt'.*'answer'"):  # in a task of one's own
        Reward(name)("", "None", {"prompt": "a prompt", "answer": answer})


@pytest.mark.parametrize("answer", ["four", "4_2", "nan", "inf", "1,00", math.inf, True + 0j])
def test_an_answer_that_is_no_number_is_named_before_the_first_episode(answer):
    with pytest.raises(DataError, match="row 0: 'answer' must be a finite number"):
        gym.make(
            **{"id": "textenv:TextGen-v0", "prompts": ["a"], "reward_fn": "numeric_match"},
            examples=[{"answer": answer}],
        )


@pytest.mark.parametrize("answer", ["42 km", "$42", "42%", "42.", "1,042"])
def test_an_answer_with_a_unit_is_a_number(answer):
    made = {"id": "textenv:TextGen-v0", "prompts": ["a"], "reward_fn": "numeric_match"}
    env = gym.make(**made, examples=[{"answer": answer}])
    env.reset()
    assert env.step(answer)[1] == 1.0


@pytest.mark.parametrize("answer", [42.0, np.float64(42), "42.0"])  # as pandas and its CSV have it
@pytest.mark.parametrize(
    ("name", "completion", "expected"),
    [
        ("exact_match", "42", 1.0),
        ("exact_match", "42.0", 1.0),
        ("exact_match", "42.5", 0.0),
        ("exact_match", "4", 0.0),
        ("contains", "It is 42.", 1.0),
        ("contains", "It is 42.0!", 1.0),
        ("contains", "It is 420", 0.0),
        ("contains", "It is 142", 0.0),
        ("contains", "It is 42.5", 0.0),
        ("contains", "It is 1.42", 0.0),
        ("numeric_match", "42", 1.0),
    ],
)
def test_a_whole_number_that_pandas_wrote_is_that_number(name, completion, answer, expected):
    assert score(name, completion, {"answer": answer})[0] == expected


@pytest.mark.parametrize(
    ("completion", "answer", "expected"),
    [
        ("1,000", 1000, 1.0),
        ("1000", "1,000", 1.0),
        ("-1,234,567.5", "-1234567.5", 1.0),
        ("1,00", 100, 0.0),
        ("10,00", 1000, 0.0),
        (",100", 100, 0.0),
        ("4_2", 42, 0.0),
        ("inf", 42, 0.0),
        ("1e999999999", 42, 0.0),
        ("9" * 1_000_000, 42, 0.0),
        ("1e3", 1000, 1.0),
        ("+.5", 0.5, 1.0),
        ("5.", 5, 1.0),
    ],
)
def test_numbers_as_people_write_them(completion, answer, expected):
    assert score("numeric_match", completion, {"answer": answer})[0] == expected


def test_a_tolerance_that_is_missing_in_one_row_is_the_default():
    for missing in (None, math.nan, ""):
        example = {"answer": 4, "tolerance": missing}
        assert run("numeric_match", "4", **example) == 1.0
        assert run("numeric_match", "4.1", **example) == 0.0


def test_a_check_of_ones_own_names_the_row():
    def check(example):
        return None if example["level"] > 0 else "'level' must be above 0"

    @textenv.reward(requires=["level"], check=check)
    def by_level(prompt, completion, example):
        return 1.0

    made = {"id": "textenv:TextGen-v0", "prompts": ["a", "b"], "reward_fn": "by_level"}
    gym.make(**made, examples=[{"level": 1}, {"level": 2}])
    with pytest.raises(DataError, match=r"row 1: 'level' must be above 0; reward_fn='by_level'"):
        gym.make(**made, examples=[{"level": 1}, {"level": 0}])


def run(spec, completion, **example):
    return Reward(spec)("a prompt", completion, example)[0]


def test_what_the_package_promises_is_registered():
    promised = "contains exact_match format_tags json_schema length math_equal numeric_match regex"
    assert set(promised.split()) <= set(rewards.names())


@pytest.mark.parametrize(
    ("answer", "completion", "expected"),
    [
        ("42", "42", 1.0),
        ("1/2", "0.5", 1.0),
        (r"\frac{1}{2}", "1/2", 1.0),
        ("1/2", "The answer is 1/2.", 1.0),
        ("1/2", r"so it is \boxed{\frac12}", 1.0),
        ("1/2", "I get $2/4$", 1.0),
        ("x^2+1", "1 + x^2", 1.0),
        ("2*x", "x*2", 1.0),
        ("(1,2)", "(1, 2)", 1.0),
        ("{1,2}", "{2,1}", 1.0),
        (r"\sqrt{8}", r"2\sqrt{2}", 1.0),
        ("1000", "1,000", 1.0),
        (3, "x = 3", 1.0),
        ("2", "2*x", 0.0),
        ("2", "1", 0.0),
        ("2", "", 0.0),
        ("2", "two", 0.0),
        ("2/3", "0.6667", 0.0),
        (r"\pi", "3.14", 0.0),
        ("42", "so <answer>42</answer>", 1.0),
        ("1/2", r"3 of 6 is <answer>\frac{1}{2}</answer>. 7", 1.0),
        ("42", "<answer>41</answer> or <answer>42</answer>", 1.0),
        ("42", "<answer>42</answer> or <answer>41</answer>", 0.0),
        ("42", r"<answer>41</answer>, not \boxed{42}", 0.0),
        ("42", "42 <answer></answer>", 0.0),
        ("42", "<answer>42", 0.0),
        ("5", "(" * 200, 0.0),
        ("5", "🙂", 0.0),
    ],
)
def test_math_equal_by_hand(answer, completion, expected):
    pytest.importorskip("math_verify")
    reward, _, correct = Reward("math_equal")("", completion, {"answer": answer})
    assert (reward, correct) == (expected, expected == 1.0)


@given(st.integers(-999, 999), st.integers(1, 99), st.integers(1, 9))
def test_math_equal_knows_a_fraction_however_it_is_written(top, bottom, factor):
    pytest.importorskip("math_verify")
    for text in (
        f"{top * factor}/{bottom * factor}",
        rf"\frac{{{top * factor}}}{{{bottom * factor}}}",
    ):
        assert run("math_equal", text, answer=f"{top}/{bottom}") == 1.0
        assert run("math_equal", rf"\boxed{{{text}}}", answer=f"{top + 1}/{bottom}") == 0.0


def test_math_equal_says_where_the_answer_is_no_formula():
    pytest.importorskip("math_verify")
    with pytest.raises(RewardError, match="'hello world' is not a formula"):
        run("math_equal", "4", answer="hello world")


@given(st.text())
def test_any_text_is_scored(text):
    for name, example in {
        "exact_match": {"answer": "a"},
        "contains": {"answer": "a"},
        "numeric_match": {"answer": "4"},
        "regex": {"pattern": "a+b"},
        "length": {},
        "format_tags": {},
    }.items():
        assert 0 <= run(name, text, **example) <= max(1, len(text))


@pytest.mark.parametrize(
    ("name", "package", "example"),
    [
        ("math_equal", "math_verify", {"answer": "4"}),
        ("json_schema", "jsonschema", {"schema": {}}),
    ],
)
def test_a_library_that_is_not_there_names_the_extra(monkeypatch, name, package, example):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=r"textenv\[rewards\]"):
        run(name, "4", **example)


def test_a_key_that_a_function_needs_is_missed_before_the_first_episode():
    for name, key in (("regex", "pattern"), ("json_schema", "schema"), ("math_equal", "answer")):
        with pytest.raises(ValueError, match=f"key '{key}' is missing"):
            gym.make("textenv:TextGen-v0", prompts=["a"], reward_fn=name)
    with pytest.raises(ConfigError, match=r"regxe.*'regex'"):
        gym.make("textenv:TextGen-v0", prompts=["a"], reward_fn="regxe")
