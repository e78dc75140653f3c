"""Starts launchers with small programs as ranks."""

import os
import subprocess
import sys

import pytest


@pytest.fixture
def program(tmp_path):
    """A function that writes a program, which has ``rank``, and gives its path."""

    def write(code):
        path = tmp_path / "program.py"
        path.write_text(f"import os, sys, time\nrank = int(os.environ['MLX_RANK'])\n{code}\n")
        return str(path)

    return write


@pytest.fixture
def launch():
    """A function that starts a launcher with some options; all of them are ended after the test."""
    started = []

    def start(*options):
        code = "import sys; from textenv.algos.cli import main; sys.exit(main(sys.argv[1:]))"
        process = subprocess.Popen(
            [sys.executable, "-c", code, "launch", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
