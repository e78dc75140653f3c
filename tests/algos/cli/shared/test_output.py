"""Output that a program outlives."""

import io
import os
import sys

import pytest

from textenv.algos.cli.shared.output import lasting_output


def test_a_reader_who_leaves_is_no_error(monkeypatch):
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with lasting_output():
            print("read", flush=True)
            assert os.read(reader, 100) == b"read\n"
            os.close(reader)
            for _ in range(2):
                print("lost", flush=True)
            sys.stdout.write("x" * 100_000)  # more than a buffer holds
        assert sys.stdout is stream
        stream.flush()  # as Python does at its exit


def test_a_full_disk_is_no_error(monkeypatch):
    if not os.path.exists("/dev/full"):
        pytest.skip("/dev/full is Linux's")
    with open("/dev/full", "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with lasting_output():
            print("lost", file=sys.stderr, flush=True)


def test_it_is_a_stream_like_the_one_behind_it(monkeypatch):
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", stream)
    with lasting_output():
        assert sys.stdout.isatty() and sys.stdout.write("four") == 4
    assert stream.getvalue() == "four"


def test_the_error_of_a_stream_that_is_no_file_is_not_hidden(monkeypatch):
    class Broken(io.StringIO):
        def write(self, text):
            raise OSError("its own")

    monkeypatch.setattr(sys, "stdout", Broken())
    with lasting_output(), pytest.raises(OSError, match="its own"):
        print("lost")
