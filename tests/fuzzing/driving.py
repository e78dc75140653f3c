"""Runs a process that loads changed files, and notices if it hangs or dies."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-m", "tests.fuzzing.child"]
_ROOT = Path(__file__).parents[2]
_PATIENCE = 60  # seconds for one input; the process itself complains of much shorter times

Job = tuple[str, int, int]
"""A target's name, the seed of the first input, and how many there are."""


def faults(jobs: Sequence[Job], patience: float = _PATIENCE) -> list[str]:
    """What was wrong with how inputs were loaded.

    Args:
        jobs: the inputs.
        patience: seconds after which an input counts as one that hangs.

    Returns:
        A text for each fault, with the seed of its input.
    """
    found: list[str] = []
    left = list(jobs)
    while left:
        process = subprocess.Popen(
            [*COMMAND, json.dumps(left)], cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        last: dict[str, Any] = {"target": left[0][0], "seed": None, "file": "none yet"}
        hangs = False
        try:
            for line in _lines(process, patience):
                if hangs := line is None:
                    break
                last = json.loads(line)
                if "fault" in last:
                    found.append(f"{_place(last)}: {last['fault']}")
        finally:
            process.kill()
            _, said = process.communicate()
        if not hangs and process.returncode == 0:
            break
        end = f"the process ended with {process.returncode}: {said.decode()[-2000:]}"
        found.append(f"{_place(last)}: {'hangs' if hangs else end}")
        left = _after(left, last["target"], last["seed"])
    return found


def _after(jobs: list[Job], target: str, seed: int | None) -> list[Job]:
    """The jobs that are left after an input; without a seed, those of other targets."""
    at = next(i for i, job in enumerate(jobs) if job[0] == target)
    _, first, count = jobs[at]
    end = first + count
    rest = [] if seed is None or seed + 1 >= end else [(target, seed + 1, end - seed - 1)]
    return [*rest, *jobs[at + 1 :]]


def _place(facts: dict[str, Any]) -> str:
    return f"{facts['target']} {facts['seed']}, {facts['file']}"


def _lines(process: subprocess.Popen[bytes], patience: float) -> Iterator[str | None]:
    """The lines that a process writes; None if it writes none for too long."""
    assert process.stdout is not None
    pipe, begun = process.stdout.fileno(), b""
    while select.select([pipe], [], [], patience)[0]:
        data = os.read(pipe, 2**16)
        if not data:
            process.wait()
            return
        *lines, begun = (begun + data).split(b"\n")
        yield from (line.decode() for line in lines)
    yield None
