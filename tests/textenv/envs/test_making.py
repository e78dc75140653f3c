"""The arguments that are kept of a call."""

from pathlib import Path

from textenv.envs.making import changed


def made(prompts=None, tokens=25, weight=1.0, path=None, on=True, limit=10.0):
    """A function with defaults."""


def test_only_what_is_not_a_default_is_kept():
    given = {"prompts": None, "tokens": 25, "weight": 1.0, "path": None, "on": True, "limit": 10.0}
    assert changed(made, {**given, "self": object()}) == {}
    own = ["a"]
    kept = changed(made, {**given, "prompts": own, "tokens": 26, "on": False, "limit": None})
    assert kept == {"prompts": own, "tokens": 26, "on": False, "limit": None}
    assert kept["prompts"] is own
    assert changed(made, {**given, "weight": 1}) == {"weight": 1}
    assert changed(made, {**given, "path": Path("a") / "b"}) == {"path": "a/b"}
