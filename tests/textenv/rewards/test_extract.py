"""Answers are taken out of completions as a careful reader would take them, or not at all."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textenv.errors import ConfigError, ConfigTypeError, RewardError
from textenv.rewards.extract import KNOWN, MOST_SEARCHED, make_extractor, strip_thinking


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("42", "42"),
        ("", ""),
        ("<think>1 + 1</think>2", "2"),
        ("<think>a</think>b<think>c</think>d", "d"),
        ("a</think>b", "b"),  # a template may have opened it
        ("<think>a<think>b</think>c", "c"),
        ("<think>42", None),
        ("42<think>", None),
        ("<think>a</think>42<think>no, 43", None),
        ("<thinking>42", "<thinking>42"),
    ],
)
def test_thinking_is_taken_off_and_unfinished_thinking_is_no_answer(text, expected):
    assert strip_thinking(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12 + 30 = 42.", "42"),
        ("The answer is 42", "42"),
        ("The answer is **42**.", "42"),
        ("_42_", "42"),
        ("答案是42。", "42"),
        ("...42", "42"),
        ("42 km", "42"),
        ("area: 42 m2", "42"),
        ("H2O", None),
        ("no number", None),
        ("", None),
        # signs: of a number, and between two numbers
        ("-5", "-5"),
        ("12-30", "30"),
        ("12 - 30 = -18", "-18"),
        ("x=-18", "-18"),
        ("(-18)", "-18"),
        ("(2)-3", "3"),
        ("12--30", "-30"),
        ("\u221218", "-18"),
        ("+5", "5"),
        ("- 42", "42"),  # an item of a list
        # separators, decimals, currencies
        ("1,000", "1000"),
        ("1{,}000", "1000"),
        ("-1,234,567.5", "-1234567.5"),
        ("1,2,3", "3"),
        ("10,00", "00"),
        ("1, 2", "2"),
        (".5", ".5"),
        ("it is.5", "5"),
        ("0.50", "0.50"),
        ("5.", "5"),
        ("1.2.3", "1.2"),
        ("$1,234.50", "1234.50"),
        ("-$18", "-18"),
        ("$-18", "-18"),
        ("€7", "7"),
        # exponents and fractions
        ("1e3", "1e3"),
        ("2.5E-3", "2.5E-3"),
        ("3e", "3"),
        ("3/4", "3/4"),
        ("12/30 = 0.4", "0.4"),
        ("2024/05/01", "2024"),
    ],
)
def test_last_number_by_hand(text, expected):
    assert make_extractor("last_number")(text) == expected


@given(
    st.integers(), st.sampled_from(["{}", "so {}.", "12 + 30 = {}", "a: {}\n", "({})", "**{}**"])
)
def test_a_whole_number_comes_out_as_python_writes_it(number, around):
    assert make_extractor("last_number")(around.format(number)) == str(number)
    assert make_extractor("last_number")(around.format(f"{number:,}")) == str(number)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{42}", "42"),
        (r"so $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\text{a \} b}}", r"\text{a \} b}"),
        (r"\boxed{ }", None),
        (r"\boxed{4", None),
        (r"\boxed{42} or \boxed{4", None),  # the last one is not finished
        (r"boxed{42}", None),
    ],
)
def test_boxed_by_hand(text, expected):
    assert make_extractor("boxed")(text) == expected


@pytest.mark.parametrize(
    ("spec", "text", "expected"),
    [
        ("tag:answer", "<answer> 42 </answer>", "42"),
        ("tag:answer", "<answer>1</answer><answer>2</answer> done", "2"),
        ("tag:answer", "<answer>a\nb</answer>", "a\nb"),
        ("tag:answer", "<answer>4", None),
        ("tag:answer", "<answer>1</answer> or <answer>2", None),
        ("tag:answer", "42</answer>", None),
        ("tag:answer", "<answer></answer>", None),
        ("tag:solution", "<answer>1</answer><solution>2</solution>", "2"),
        ("after:####", "12 + 30\n#### 42", "42"),
        ("after:####", "#### 1 #### 2\nmore", "2"),
        ("after:Answer:", "Answer:\n42\nbye", "42"),
        ("after:####", "42", None),
        ("after:####", "####", None),
        ("after::", "a: b", "b"),
        ("line:last", "thinking\n42\n\n", "42"),
        ("line:last", "42", "42"),
        ("line:last", " \n ", None),
        ("regex:[0-9]+", "1 22 333", "333"),
        ("regex:is ([0-9]+)", "1 is 2 is 3 4", "3"),
        ("regex:(a)|(b)", "b", None),  # the first group took no part
        ("regex:a:(.)", "a:b", "b"),
        ("text", " 42 apples ", "42 apples"),
        ("text", "", None),
        ("text", "<think>x</think>", None),
    ],
)
def test_the_others_by_hand(spec, text, expected):
    assert make_extractor(spec)(text) == expected


plain = st.text("ab 4\n.,")


@given(st.lists(st.tuples(plain, plain), min_size=1), plain)
def test_the_last_of_many_tags_counts(pairs, after):
    text = "".join(f"{before}<answer>{inside}</answer>" for before, inside in pairs) + after
    assert make_extractor("tag:answer")(text) == (pairs[-1][1].strip() or None)
    assert make_extractor("tag:answer")(f"{text}<answer>{after}") is None


@pytest.mark.parametrize("spec", [known.replace("PATTERN", ".+") for known in KNOWN])
@given(st.text())
def test_an_answer_is_a_part_of_the_text_or_none_and_never_blank(spec, text):
    answer = make_extractor(spec)(text)
    assert answer is None or (answer and answer == answer.strip())
    assert make_extractor(spec)(f"{text}<think>42") is None
    if spec != "last_number":
        assert answer is None or answer in text


@pytest.mark.parametrize("spec", [known.replace("PATTERN", "(9|a)9*") for known in KNOWN])
@pytest.mark.parametrize("piece", ["9", "9,999", "<answer>", r"\boxed{", "{", "#### ", "\n", "1/"])
def test_a_million_characters_are_read_once(spec, piece):
    # A search that is quadratic in the length would take minutes here.
    answer = make_extractor(spec)(piece * (2**20 // len(piece)))
    assert answer is None or len(answer) <= 2**20


def test_a_pattern_sees_the_end_of_a_long_text():
    extract = make_extractor("regex:[ab]")
    assert extract("a" + " " * (MOST_SEARCHED - 1)) == "a"
    assert extract("a" + " " * MOST_SEARCHED) is None


def test_a_function_of_ones_own_sees_the_text_without_thinking():
    seen = []

    def first_word(text):
        seen.append(text)
        return text.split()[0]

    assert make_extractor(first_word)("<think>x</think> 42 is it") == "42"
    assert make_extractor(first_word)("<think>x") is None
    assert seen == [" 42 is it"]
    assert make_extractor(lambda text: None)("42") is None
    assert make_extractor(lambda text: " \n")("42") is None


@pytest.mark.parametrize("returned", [42, ["42"], True, b"42"])
def test_a_function_that_returns_something_else_is_an_error(returned):
    def number(text):
        return returned

    with pytest.raises(RewardError, match=r"'number' returned .*; expected text or None"):
        make_extractor(number)("42")


def test_a_function_that_raises_is_an_error_with_its_name():
    def broken(text):
        return text.split()[5]

    with pytest.raises(RewardError, match="'broken' raised IndexError: list index out of range"):
        make_extractor(broken)("42")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("last_numbr", "unknown extractor 'last_numbr'; did you mean 'last_number'"),
        ("line:first", "unknown extractor 'line:first'.*line:last"),
        ("answer:tag", f"unknown extractor .*{KNOWN[0]}, .*{KNOWN[-1]}"),
        ("", "unknown extractor ''"),
        ("tag:", "extract='tag:' needs something after the colon: tag:NAME"),
        ("regex:(", "extract='regex:\\('.*not a regular expression: missing \\)"),
    ],
)
def test_an_unknown_extractor_is_an_error_of_one_line(spec, message):
    with pytest.raises(ConfigError, match=message) as error:
        make_extractor(spec)
    assert "\n" not in str(error.value)


def test_something_that_is_no_extractor_at_all():
    with pytest.raises(ConfigTypeError, match="name of an extractor or a function, got int"):
        make_extractor(42)


@pytest.mark.parametrize("spec", [known.replace("PATTERN", ".+") for known in KNOWN])
def test_an_extractor_can_be_pickled(spec):
    extract = make_extractor(spec)
    text = r"<answer>1</answer> #### MARKER 2 <NAME>3</NAME> \boxed{4}"
    assert pickle.loads(pickle.dumps(extract))(text) == extract(text)


def test_an_action_that_is_no_answer_is_read_whole():
    extract = make_extractor("last_number")
    assert extract.read("<think>x</think>calc(1+2)", lambda text: "calc" not in text) == (
        "calc(1+2)",
        None,
    )
    assert extract.read("it is 3", lambda text: "calc" not in text) == ("3", "3")
    assert extract.read("<think>calc(1+2)", lambda text: True) == (None, None)
