"""What the tests of the commands share."""

import pytest

from textenv.algos.cli import main


@pytest.fixture
def refused(capsys):
    """``refused(*argv)``: the one line that a refused command leaves on standard error."""

    def refused(*argv):
        capsys.readouterr()
        assert main(argv) == 2
        printed = capsys.readouterr()
        assert printed.err.count("\n") == 1, printed
        assert printed.out == "" or argv[0] == "train"  # which says first what it begins with
        return printed.err

    return refused
