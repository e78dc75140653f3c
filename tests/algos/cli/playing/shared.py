"""Plays with what is typed, as the tests of this folder do."""

import io
import sys

from textenv.algos.cli import main


def play(monkeypatch, capsys, typed, *argv):
    """What ``textenv play`` prints where these lines are typed; after them, the end of input."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in typed)))
    assert main(["play", *argv]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out
