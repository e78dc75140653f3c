"""Processes that end with the one that started them, whatever they are doing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import multiprocessing, re, sys, time
from textenv.lifeline import end_with

def busy(lifeline, name):
    end_with(lifeline)
    print("ready", multiprocessing.current_process().pid, flush=True)
    if name == "computing":  # never returns to Python
        re.match(r"(a*)*b", "a" * 100)
    time.sleep(3600)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe(duplex=False)
    process = context.Process(target=busy, args=(theirs, sys.argv[1]))
    process.start()
    theirs.close()
    process.join()
"""


@pytest.mark.parametrize(
    "doing",
    [
        "sleeping",
        pytest.param(
            "computing",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="needs F_SETSIG"),
        ),
    ],
)
def test_a_process_ends_with_the_one_that_started_it(tmp_path, doing):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, str(script), doing], stdout=subprocess.PIPE, text=True
    ) as process:
        child = int(process.stdout.readline().split()[1])
        time.sleep(0.1)
        os.kill(child, 0)  # it is there
        process.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 20
        while _runs(child):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def _runs(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")  # an orphan that nobody has waited for runs no more
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")
