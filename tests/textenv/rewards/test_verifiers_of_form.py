"""Reward functions for the form of a completion: regex, json_schema, format_tags."""

import functools
import json
import re

import gymnasium as gym
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.textenv.rewards.test_verifiers import run
from textenv.errors import RewardError
from textenv.rewards import Reward
from textenv.rewards.verifiers import format_tags, json_schema, numeric_match, regex


@pytest.mark.parametrize(
    ("pattern", "completion", "expected"),
    [
        (r"\d+", "it is 42.", 1.0),
        (r"\d+", "it is", 0.0),
        (r"\A\d+\Z", "42", 1.0),
        (r"\A\d+\Z", "42\n", 0.0),
        ("", "", 1.0),
    ],
)
def test_regex_by_hand(pattern, completion, expected):
    assert run("regex", completion, pattern=pattern) == expected
    everywhere = functools.partial(regex, pattern=pattern)
    assert Reward(everywhere)("", completion, {})[1] == {"regex": expected}


@given(st.text(), st.text())
def test_regex_finds_what_is_there(text, around):
    assert run("regex", around + text + around, pattern=re.escape(text)) == 1.0


def test_a_parameter_that_partial_sets_is_not_required_of_the_examples():
    assert Reward("regex").requires == ["pattern"]
    assert Reward(functools.partial(regex, pattern="a")).requires == []
    assert Reward(functools.partial(numeric_match, tolerance=1)).requires == ["answer"]
    env = gym.make(
        "textenv:TextGen-v0", prompts=["x"], reward_fn=functools.partial(regex, pattern="a")
    )
    env.reset(seed=0)
    assert env.step("banana")[1] == 1.0
    close = functools.partial(numeric_match, tolerance=0.5)
    assert Reward(close)("", "4.4", {"answer": 4})[::2] == (1.0, True)


SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer", "minimum": 0}},
    "required": ["age"],
}


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ('{"age": 3}', 1.0),
        (' {"age": 3, "name": "a"}\n', 1.0),
        ('{"age": -3}', 0.0),
        ('{"age": 3.5}', 0.0),
        ('{"age": NaN}', 0.0),
        ("{}", 0.0),
        ("[]", 0.0),
        ('{"age": 3', 0.0),
        ('{"age": 3} and more', 0.0),
        ("[" * 100_000, 0.0),
        ("9" * 5000, 0.0),
        ("", 0.0),
    ],
)
def test_json_schema_by_hand(completion, expected):
    pytest.importorskip("jsonschema")
    assert run("json_schema", completion, schema=SCHEMA) == expected
    assert Reward(functools.partial(json_schema, schema=SCHEMA))("", completion, {})[0] == expected


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_json_schema_takes_what_const_names(value):
    pytest.importorskip("jsonschema")
    text = json.dumps(value)
    assert run("json_schema", text, schema={"const": value}) == 1.0
    assert run("json_schema", text, schema={"not": {"const": value}}) == 0.0


def test_json_schema_fetches_nothing(monkeypatch):
    pytest.importorskip("jsonschema")
    import socket

    def refused(*_, **__):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(socket.socket, "connect", refused)
    with pytest.raises(RewardError, match=r"'json_schema' raised .*http://example\.com/a"):
        run("json_schema", "{}", schema={"$ref": "http://example.com/a"})


def test_json_schema_refuses_a_broken_schema():
    pytest.importorskip("jsonschema")
    with pytest.raises(RewardError, match="raised SchemaError: 'number of' is not valid"):
        run("json_schema", "{}", schema={"type": "number of"})


GOOD = "<think>a</think><answer>b</answer>"


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (GOOD, 1.0),
        ("\n<think>a\n\nb</think>\n <answer></answer> \n", 1.0),
        ("<think>1 < 2 > 0</think><answer><b>b</b></answer>", 1.0),
        ("", 0.0),
        ("b", 0.0),
        ("<answer>b</answer><think>a</think>", 0.0),
        ("<think>a<answer>b</answer></think>", 0.0),
        ("<think>a</think>", 0.0),
        ("<think>a</think>so<answer>b</answer>", 0.0),
        ("so " + GOOD, 0.0),
        (GOOD + "!", 0.0),
        (GOOD + GOOD, 0.0),
        ("<think><think>a</think><answer>b</answer>", 0.0),
        ("<think>a</think><answer>b", 0.0),
    ],
)
def test_format_tags_by_hand(completion, expected):
    assert run("format_tags", completion) == expected


tags = st.lists(st.text("abcdef", min_size=1), unique=True, max_size=4)


@given(tags, st.text("abc <>/\n", max_size=20))
def test_format_tags_takes_tags_in_order(names, inner):
    parts = [f"<{name}>{'' if '<' in inner else inner}</{name}>" for name in names]
    own = functools.partial(format_tags, tags=names)
    assert Reward(own)("", "\n".join(parts), {})[0] == 1.0
    assert run("format_tags", "".join(parts), tags=names) == 1.0
    if len(names) > 1:
        assert run("format_tags", "".join(parts[::-1]), tags=names) == 0.0
