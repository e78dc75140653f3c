"""The exceptions that the command line prints as one line."""

from textenv.errors import (
    DataError,
    MissingFileError,
    TextEnvError,
)


def test_every_error_is_one_that_the_command_line_prints_as_a_line():
    assert issubclass(DataError, TextEnvError)
    assert issubclass(MissingFileError, TextEnvError)
