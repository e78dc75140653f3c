"""The exceptions that the command line prints as one line."""

import builtins
import inspect

import pytest

from textenv import errors
from textenv.errors import (
    DataError,
    MissingDependencyError,
    MissingFileError,
    TextEnvError,
    unknown,
)

ERRORS = [each for _, each in inspect.getmembers(errors, inspect.isclass)
          if issubclass(each, TextEnvError) and each is not TextEnvError]  # fmt: skip


def test_every_error_is_one_that_the_command_line_prints_as_a_line():
    assert issubclass(DataError, TextEnvError)
    assert issubclass(MissingFileError, TextEnvError)


@pytest.mark.parametrize("error", ERRORS)
def test_code_that_knows_pythons_errors_alone_catches_every_error(error):
    own = {base for base in error.__mro__ if base.__module__ == "builtins"}
    assert own - {object, BaseException, Exception}, "no error of Python"
    assert all(getattr(builtins, base.__name__) is base for base in own)


def test_a_missing_package_is_named_with_its_extra():
    error = MissingDependencyError("pyarrow", extra="tasks", purpose="a dataset in Parquet")
    assert str(error) == (
        "a dataset in Parquet needs pyarrow, which is not installed: the extra textenv[tasks] "
        "brings it, pip install -e '.[tasks]' in the folder of textenv's source"
    )
    with pytest.raises(ImportError):
        raise error


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("srot", "unknown task 'srot'; did you mean 'sort'? Known: sort, reverse"),
        ("x", "unknown task 'x'; known: sort, reverse"),
        (3, "unknown task 3; known: sort, reverse"),
    ],
)
def test_an_unknown_name_gets_the_nearest_and_all(name, message):
    assert unknown("task", name, iter(["sort", "reverse"])) == message
