"""Runs the plan: each measurement in a process of its own, the sides of a row in turn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from textenv.algos.bench.plan import Row, Side, missing
from textenv.algos.bench.results import Measurement, Results
from textenv.errors import TextEnvError

_ENVIRON = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",  # everything that is read is in a local folder
    "HF_DATASETS_OFFLINE": "1",
}


class ProbeError(TextEnvError):
    """Raised if a process leaves no answer; the message is the last line of its output."""


class PlannedRun(NamedTuple):
    """A run of the plan that is still to be made."""

    row: int
    side: Side
    round: int
    """Counted from 1; round 0 is not measured."""

    @property
    def key(self) -> tuple[int, str]:
        """The row and the side's name, under which `Results` keeps the run."""
        return self.row, self.side.name


class Watcher:
    """Is told of each run. The methods do nothing; a subclass shows the run."""

    def on_start(self, planned: PlannedRun, number: int, total: int, left: float) -> None:
        """A run begins, ``number`` of ``total``; about ``left`` seconds remain for all of them."""

    def on_end(
        self, planned: PlannedRun, number: int, total: int, measurement: Measurement
    ) -> None:
        """A run has ended; the results have its measurement."""


def run_plan(
    results: Results, rows: Sequence[Row], rounds: int, folder: Path, watcher: Watcher
) -> None:
    """Make all runs of a plan, and add what they find to the results.

    A peer that is not installed is left out, and so is a side once it has failed.

    Args:
        results: the results of these rows, still empty.
        rows: the plan.
        rounds: how often each side has its turn.
        folder: the folder that the processes run in.
        watcher: is told of each run.
    """
    plan = list(_planned_runs(rows, rounds))
    for planned in plan:
        if planned.side.peer and (install := missing(planned.side.peer)):
            results.fail(*planned.key, f"not installed: {install}")
    pending = [planned for planned in plan if not results.failed(*planned.key)]
    total, number = len(pending), 0
    took: dict[tuple[int, str], float] = {}
    while pending:
        left = sum(took.get(t.key, t.side.guess) for t in pending)
        planned, number = pending.pop(0), number + 1
        watcher.on_start(planned, number, total, left)
        start = time.perf_counter()
        try:
            measurement = Measurement(planned.round, measure(planned.side, folder, results.seed))
        except ProbeError as error:
            measurement = Measurement(planned.round, {}, str(error))
            results.fail(*planned.key, str(error))
            total -= len(pending)
            pending = [t for t in pending if t.key != planned.key]
            total += len(pending)
        else:
            took[planned.key] = time.perf_counter() - start
            if planned.round:
                results.add(*planned.key, measurement)
        watcher.on_end(planned, number, total, measurement)


def estimate(rows: Sequence[Row], rounds: int) -> float:
    """The seconds that a plan will take on two cores, roughly."""
    return sum(
        planned.side.guess
        for planned in _planned_runs(rows, rounds)
        if not (planned.side.peer and missing(planned.side.peer))
    )


def measure(side: Side, folder: Path, seed: int) -> dict[str, Any]:
    """Run the probe of a side in a new process.

    Raises:
        ProbeError: if the process failed.
    """
    arguments = dict(side.arguments)
    if "work" in arguments:
        arguments["seed"] = seed
    return run_probe(side.probe, arguments, folder, side.environ)


def run_probe(
    probe: str, arguments: dict[str, Any], folder: Path, environ: dict[str, str] | None = None
) -> dict[str, Any]:
    """Run a probe in a new process, by the probe's name.

    Raises:
        ProbeError: if the process failed.
    """
    answer, said = folder / "answer.json", folder / "said.txt"
    answer.unlink(missing_ok=True)
    job = json.dumps({"probe": probe, "arguments": arguments, "started": time.time()})
    with said.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "textenv.algos.bench.worker", job, str(answer)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            cwd=folder,
            env={**os.environ, **_ENVIRON, **(environ or {})},
        )
        try:
            code = process.wait()
        finally:  # also if this process is interrupted
            process.kill()
            process.wait()
    if code or not answer.exists():
        raise ProbeError(_last_line(said, code))
    found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    return found


def _last_line(said: Path, code: int) -> str:
    text = said.read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if code < 0:
        return f"ended by signal {-code}" + (" (out of memory?)" if code == -9 else "")
    return lines[-1] if lines else f"exit status {code}"


def _planned_runs(rows: Sequence[Row], rounds: int) -> Iterator[PlannedRun]:
    for index, row in enumerate(rows):
        for number in range(0 if row.warm else 1, rounds + 1):
            for side in row.sides:
                yield PlannedRun(index, side, number)
