"""Schemas of tools against those that transformers makes, and arguments against the schemas."""

import re
from typing import Any, Literal

import pytest

from textenv.errors import ConfigError
from textenv.tools.schema import schema_of, why_wrong


def add(a: int, b: float = 0.0) -> float:
    """Add two numbers.

    Args:
        a: the first one
        b: the second one,
            which may be left out
    """
    return a + b


def search(
    query: str,
    tags: list[str],
    by: Literal["date", "size"] = "date",
    limit: int | None = None,
    where: dict[str, int] | None = None,
    either: int | str = 1,
    anything: Any = None,
    deep: list[list[int]] | None = None,
    exact: bool = False,
):
    """Look for something.

    It goes through all of it.

    Args:
        query: what to look for
        tags: any of these
        by: the order
        limit: how many
        where: numbers by name
        either: a number or a name
        anything: whatever
        deep: lists in a list
        exact: whether case counts

    Returns:
        What was found.
    """


def test_the_schema_is_the_one_that_transformers_makes():
    utils = pytest.importorskip("transformers.utils")
    for function in (add, search):
        theirs = utils.get_json_schema(function)["function"]
        theirs.pop("return", None)
        ours = schema_of(function)["function"]
        assert ours["description"] == " ".join(theirs.pop("description").split())
        assert {k: v for k, v in ours.items() if k != "description"} == theirs


def test_a_schema_worked_by_hand():
    assert schema_of(add) == {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Add two numbers.",
            "parameters": {
                "type": "object",
                "properties": {
                    "a": {"type": "integer", "description": "the first one"},
                    "b": {
                        "type": "number",
                        "description": "the second one, which may be left out",
                    },
                },
                "required": ["a"],
            },
        },
    }


class Shop:
    """A shop."""

    def price(self, item: "str") -> int:
        """The price of an item."""
        return len(item)


def test_methods_and_functions_without_a_docstring_are_tools_too():
    schema = schema_of(Shop().price)["function"]
    assert (schema["name"], schema["description"]) == ("price", "The price of an item.")
    assert list(schema["parameters"]["properties"]) == ["item"]

    def bare():
        return "x"

    assert schema_of(bare)["function"] == {
        "name": "bare",
        "description": "",
        "parameters": {"type": "object", "properties": {}},
    }


def no_hint(a):
    return a


def of_class(a: Shop):
    return a


def many(*a: int):
    return a


def unknown_hint(a: "Nowhere"):  # noqa: F821
    return a


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (no_hint, r"argument 'a' of tool 'no_hint' has no type hint, such as a: str"),
        (of_class, r"argument 'a' of tool 'of_class' has the type Shop"),
        (many, r"argument 'a' of tool 'many' cannot be given by its name"),
        (unknown_hint, r"tool 'unknown_hint': its type hints cannot be read.*Nowhere"),
        (lambda a: a, r"a function with a name"),
        (7, r"a function with a name, got 7"),
    ],
)
def test_what_no_model_can_be_told_of_is_refused(function, says):
    with pytest.raises(ConfigError, match=says) as caught:
        schema_of(function)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"query": "a", "tags": ["b"]}, ""),
        ({"query": "a", "tags": [], "limit": None, "where": {}, "either": "x"}, ""),
        ({"query": "a", "tags": [], "by": "size", "exact": True, "anything": {}}, ""),
        ({"query": "a"}, "the argument 'tags' is missing; its arguments: query, tags, by"),
        ({"query": "a", "tags": [], "colour": 1}, "no argument 'colour'; its arguments: query"),
        ({"query": 1, "tags": []}, "'query' must be of type string, got 1"),
        ({"query": "a", "tags": "b"}, "'tags' must be of type array, got 'b'"),
        ({"query": "a", "tags": [], "by": "name"}, "'by' must be of type ..date., .size.., got"),
        ({"query": "a", "tags": [], "limit": True}, "'limit' must be of type integer, got True"),
        ({"query": "a", "tags": [], "exact": 1}, "'exact' must be of type boolean, got 1"),
        ({"query": None, "tags": []}, "'query' must be of type string, got None"),
    ],
)
def test_arguments_that_do_not_fit_are_named(arguments, says):
    wrong = why_wrong(schema_of(search), arguments)
    assert bool(wrong) == bool(says)
    if says:
        assert re.search(says, wrong), wrong


def test_a_whole_number_is_a_number_and_no_truth_is():
    assert why_wrong(schema_of(add), {"a": 1, "b": 2}) == ""
    assert "'b' must be of type number, got True" in why_wrong(schema_of(add), {"a": 1, "b": True})
