"""What a strategy remembers, as a file."""

import math
import os

import pytest

from textenv.algos.strategies.state_files import go_on_from, read_state, write_state
from textenv.errors import ConfigError, DataError, MissingFileError

STATE = {"parts": [{"seen": [1, 2.5, None, "é"]}], "next_group": 3}


def test_what_is_read_is_what_was_written(tmp_path):
    path = tmp_path / "strategy.json"
    write_state(path, {"other": 1})
    write_state(path, STATE)  # in the place of the first
    assert read_state(path) == STATE
    assert [p.name for p in tmp_path.iterdir()] == ["strategy.json"]


@pytest.mark.parametrize("value", [{1, 2}, math.nan, object()])
def test_what_json_cannot_hold_leaves_the_old_file(tmp_path, value):
    path = tmp_path / "strategy.json"
    write_state(path, STATE)
    with pytest.raises(DataError, match="state cannot be written"):
        write_state(path, {"part": value})
    assert read_state(path) == STATE


def test_a_file_appears_whole(tmp_path, monkeypatch):
    """Whoever stops it between writing and naming finds the old one."""
    path = tmp_path / "strategy.json"
    write_state(path, STATE)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        write_state(path, {"other": 1})
    assert read_state(path) == STATE


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a"', "cut off or not JSON"),
        ("[" * 100_000 + "]" * 100_000, "cut off or not JSON"),
        ("[]", "not the state"),
        ('{"format": "x"}', "not the state"),
    ],
)
def test_other_files_are_named(tmp_path, text, said):
    path = tmp_path / "strategy.json"
    path.write_text(text)
    with pytest.raises(DataError, match=rf"strategy\.json.*{said}"):
        read_state(path)


def test_a_training_without_parts_writes_none(tmp_path):
    with pytest.raises(MissingFileError, match="whose strategy has no parts"):
        read_state(tmp_path / "strategy.json")


def test_a_link_in_its_place_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "strategy.json").symlink_to(tmp_path / "precious")
    write_state(tmp_path / "strategy.json", STATE)
    assert read_state(tmp_path / "strategy.json") == STATE
    assert (tmp_path / "precious").read_text() == "kept"


def test_an_error_of_what_loads_it_names_the_file(tmp_path):
    path = tmp_path / "strategy.json"
    write_state(path, STATE)
    loaded = []
    go_on_from(path, loaded.append)
    assert loaded == [STATE]

    def refuse(state):
        raise ConfigError("of another task")

    with pytest.raises(ConfigError, match=r"strategy\.json: of another task"):
        go_on_from(path, refuse)
