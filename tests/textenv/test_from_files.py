"""Own parts from files: what a file calls by a name, here and in other processes."""

import copy
import multiprocessing
import pickle
import sys

import pytest

from textenv.errors import ConfigError, MissingFileError
from textenv.from_files import load, split_name

CODE = """
from __future__ import annotations
from dataclasses import dataclass
from math import sqrt
import random

@dataclass(frozen=True)
class Point:
    x: int
    def moved(self) -> Point:
        return Point(self.x + 1)

origin = Point(0)
_hidden = 3
"""


@pytest.fixture
def path(tmp_path):
    folder = tmp_path / "a.b%2E c"  # dots and percent signs are special in names of modules
    folder.mkdir()
    (folder / "own_parts.py").write_text(CODE)
    return str(folder / "own_parts.py")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("mine.py:Double", ("mine.py", "Double")),
        ("a/b.c/mine.py:Short:keep=2", ("a/b.c/mine.py", "Short:keep=2")),
        ("C:\\x\\mine.py:f", ("C:\\x\\mine.py", "f")),
        ("arithmetic", None),
        ("reasoning_gym:chain_sum", None),
        ("mine.py", None),
        (".py:f", None),
    ],
)
def test_a_file_and_a_name(text, parts):
    assert split_name(text) == parts


def test_a_file_is_a_module_that_is_run_once(path, monkeypatch):
    point = load(path, "Point", "class")
    assert load(path, "origin", "point") == point(0)
    assert load(path, "Point", "class") is point
    assert sys.modules[point.__module__].__file__ == path
    monkeypatch.chdir(path.rpartition("/")[0])
    assert load("own_parts.py", "Point", "class") is point
    assert copy.deepcopy(point(2)).moved() == point(3)


def test_what_is_defined_there_goes_to_another_process(path):
    point = load(path, "Point", "class")(5)
    assert pickle.loads(pickle.dumps(point)) == point
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(point.moved) == type(point)(6)


def test_what_is_not_there_is_named(path, tmp_path):
    with pytest.raises(ConfigError, match=r"has no task 'Pint'; it has Point, origin$"):
        load(path, "Pint", "task")
    with pytest.raises(MissingFileError, match=r"none\.py:f: .*none\.py is not a file"):
        load(str(tmp_path / "none.py"), "f", "task")
    with pytest.raises(MissingFileError):
        load(str(tmp_path), "f", "task")


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("x = 1\nx += 'a'\n", "line 2: TypeError"),
        ("x = 1\n\ndef f(:\n", "line 3: SyntaxError"),
        (
            "import no_such_module\n",
            "line 1: ModuleNotFoundError: No module named 'no_such_module'",
        ),
    ],
)
def test_a_file_that_cannot_be_run_names_the_line(tmp_path, code, says):
    (tmp_path / "broken.py").write_text(code)
    with pytest.raises(ConfigError, match=says) as caught:
        load(str(tmp_path / "broken.py"), "f", "task")
    assert str(caught.value).startswith(f"{tmp_path / 'broken.py'}:f: ")
