"""Calls of tools in answers: what is read, and what is wrong with the rest."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textenv.tools.calls import (
    Call,
    described,
    read_calls,
    with_calls,
    without_calls,
    write_call,
    write_error,
)

ADD = '{"name": "add", "arguments": {"a": 1}}'


@pytest.mark.parametrize(
    ("answer", "calls"),
    [
        ("42", []),
        ("", []),
        (f"<tool_call>{ADD}</tool_call>", [Call("add", {"a": 1})]),
        (f"So:\n<tool_call>\n{ADD}\n</tool_call>\n", [Call("add", {"a": 1})]),
        (f"<tool_call>{ADD}</tool_call>" * 2, [Call("add", {"a": 1})] * 2),
        ('<tool_call>{"name": "now"}</tool_call>', [Call("now", {})]),
        (
            '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>',
            [Call("f", {"a": 1})],
        ),
        (f"<think>maybe <tool_call>{ADD}</tool_call></think>42", []),
        (f"<think>hm</think><tool_call>{ADD}</tool_call>", [Call("add", {"a": 1})]),
        (f"<think>hm <tool_call>{ADD}</tool_call>", []),
        (f"hm</think><tool_call>{ADD}</tool_call>", [Call("add", {"a": 1})]),
        (ADD, []),
    ],
)
def test_calls_are_read_in_order_and_thoughts_are_none(answer, calls):
    assert read_calls(answer) == calls


@pytest.mark.parametrize(
    ("inside", "says"),
    [
        ("add(1)", "it is not JSON: Expecting value"),
        ("", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        (f"[{ADD}]", "it is not an object with a name and arguments"),
        ("{}", "it has no name"),
        ('{"name": 7}', "it has no name"),
        ('{"name": "add", "arguments": [1]}', r"its arguments are not an object: \[1\]"),
        ('{"name": "add", "arguments": "1"}', "its arguments are not an object: 1"),
        ('{"name": "add", "arguments": "a=1"}', "its arguments are not an object: 'a=1'"),
        ('{"name": "\\ud800"}', "it holds a lone surrogate"),
        ('{"error": "no function", "text": "add("}', "no function"),
    ],
)
def test_what_cannot_be_read_says_why(inside, says):
    (call,) = read_calls(f"a<tool_call>{inside}</tool_call>b")
    assert call.error
    assert re.search(says, call.error), call.error


def test_a_call_that_is_not_closed_says_so():
    (call,) = read_calls(f"<tool_call>{ADD}")
    assert call.error == "<tool_call> is not closed by </tool_call>"


def test_the_text_around_calls_stays_and_wrong_calls_with_it():
    assert without_calls(f" So: <tool_call>{ADD}</tool_call> done ") == "So:  done"
    wrong = "<tool_call>add</tool_call>"
    assert without_calls(f"{wrong}<tool_call>{ADD}</tool_call>") == wrong
    thought = f"<think><tool_call>{ADD}</tool_call></think>"
    assert without_calls(f"{thought}<tool_call>{ADD}</tool_call>") == thought


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(), inside, max_size=3),
    max_leaves=8,
)


@given(st.text(), st.dictionaries(st.text(), VALUES, max_size=3), st.text())
def test_what_is_written_is_read_again(name, arguments, error):
    text = write_call(name, arguments)
    if "</tool_call>" not in json.dumps([name, arguments], ensure_ascii=False):
        assert read_calls(text) == [Call(name, arguments)]
    if "</tool_call>" not in error:
        (call,) = read_calls(write_error(error, "x"))
        assert (call.name, call.error) == ("", error)


def test_a_message_with_calls_reads_as_the_answer_that_it_was():
    function = {"name": "add", "arguments": {"a": 1}}
    called = {"role": "assistant", "content": "", "tool_calls": [{"function": function}]}
    assert read_calls(with_calls(called)) == [Call("add", {"a": 1})]
    assert with_calls({**called, "content": "So:"}) == f"So:\n<tool_call>\n{ADD}\n</tool_call>"
    assert with_calls({"role": "user", "content": "a"}) == "a"


def test_tools_are_described_with_their_schemas_and_a_call():
    text = described([{"type": "function", "function": {"name": "été"}}])
    assert '{"type": "function", "function": {"name": "été"}}' in text
    assert read_calls(text) == [Call("NAME", {"ARGUMENT": "VALUE"})]
