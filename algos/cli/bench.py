"""textenv bench: measures speed and memory on this machine, beside other libraries."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shlex
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.status import Status

from textenv.algos.bench.earlier import check_out, read_results, said_of
from textenv.algos.bench.plan import PARTS, PEERS, Row, make_plan, with_commit
from textenv.algos.bench.process import cores
from textenv.algos.bench.report import write_report
from textenv.algos.bench.results import Earlier, Measurement, Results
from textenv.algos.bench.runs import PlannedRun, Watcher, estimate, run_plan, run_probe
from textenv.algos.bench.workload import MODEL_SIZES
from textenv.algos.cli.shared.display import Terminal
from textenv.algos.cli.shared.run_folder import RunFolder
from textenv.algos.config import check_integer
from textenv.algos.runtime.backend import EXTRA
from textenv.errors import MissingDependencyError

_PACKAGES = (
    *("textenv", "gymnasium", "numpy", "mlx", "mlx-cpu", "mlx-cuda-12", "mlx-cuda-13", "mlx-metal"),
    *("mlx-lm", "scipy-openblas32", "tokenizers", "transformers", "torch", "trl", "accelerate"),
    *("datasets", "llama-cpp-python"),
)


@dataclass
class Args:
    """Measure speed and memory, each figure in a process of its own, in turn with the peers."""

    parts: tuple[str, ...] = tuple(PARTS)
    """What to measure: step, memory, long (for smollm2: half an hour a round), generate, groups,
    workers, start, environment, hardware."""
    rounds: int = 3
    """How many runs each side has; the tables show medians, and ratios by round."""
    size: tuple[str, ...] = ("small", "medium", "vocabulary")
    """Models with random weights: tiny (to try it out), small (0.8M parameters), medium (27M),
    vocabulary (150,000 words), smollm2 (135M, the dimensions of SmolLM2; it takes an hour)."""
    peers: tuple[str, ...] = tuple(PEERS)
    """Libraries to measure too, if they are installed: trl, mlx-lm, llama.cpp."""
    compare: str | None = None
    """A commit of the clone that textenv runs from, which takes turns with it, or the results.json
    of an earlier run: what became slower by more than the noise is said."""
    seed: int = 0
    """Seed of the models, the prompts and the noise."""
    out: Path | None = None
    """Folder for results.json and results.md; unset: runs/bench-TIME."""


def run(args: Args) -> int:
    """Measure, and write results.json and results.md."""
    check_integer("rounds", args.rounds, 1)
    if importlib.util.find_spec("mlx") is None:
        raise MissingDependencyError("mlx", EXTRA, "textenv bench")
    out = args.out or RunFolder.default_path("bench")
    RunFolder(out)  # refuses a folder that is not empty
    console = Terminal()
    with tempfile.TemporaryDirectory(prefix="textenv-bench-") as temporary:
        folder = Path(temporary)
        models = {name: str(folder / name) for name in MODEL_SIZES}
        rows = make_plan(args.parts, args.size, args.peers, models)
        earlier = None
        if args.compare is not None and Path(args.compare).is_file():
            earlier = read_results(Path(args.compare))
        elif args.compare is not None:
            earlier, package = Earlier(args.compare), str(check_out(args.compare, folder))
            rows = [with_commit(row, args.compare, package) for row in rows]
        results = Results(rows, args.seed, _settings(args), _machine(), earlier)
        seconds = estimate(rows, args.rounds)
        console.print(f"about {_minutes(seconds)} on two cores; the results go to {out}")
        out.mkdir(parents=True, exist_ok=True)
        try:
            for size in {row.size: None for row in rows if row.size}:
                arguments = {"size": size, "folder": models[size], "seed": args.seed}
                run_probe("make", arguments, folder)
            with _BenchDisplay(console, rows, results, out) as display:
                run_plan(results, rows, args.rounds, folder, display)
        except KeyboardInterrupt:
            write_report(results, out)
            console.print(f"interrupted: {out} holds the {results.runs} run(s) that were finished")
            return 130
    write_report(results, out)
    for line in said_of(results):
        console.print(line)
    console.print(f"results.md and results.json are in {out}")
    return 0


class _BenchDisplay(Watcher):
    """Prints a line for each run, shows the present one on a terminal, and updates the files."""

    def __init__(self, console: Console, rows: list[Row], results: Results, out: Path):
        self._console, self._rows, self._results, self._out = console, rows, results, out
        self._status: Status | None = console.status("") if console.is_terminal else None
        self._left = 0.0

    def __enter__(self) -> _BenchDisplay:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._status is not None:
            self._status.stop()

    def on_start(self, planned: PlannedRun, number: int, total: int, left: float) -> None:
        """Show what runs now."""
        self._left = left
        if self._status is not None:
            self._status.update(f"{self._name(planned, number, total)}; {_minutes(left)} left")

    def on_end(
        self, planned: PlannedRun, number: int, total: int, measurement: Measurement
    ) -> None:
        """Write the files again, and print the result of the run."""
        write_report(self._results, self._out)
        what = measurement.error or _figures(measurement.found, self._rows[planned.row].part)
        left = f" ({_minutes(self._left)} were left)" if self._status is None else ""
        self._console.print(f"{self._name(planned, number, total)}: {what}{left}")

    def _name(self, planned: PlannedRun, number: int, total: int) -> str:
        row, side = self._rows[planned.row], planned.side.name
        what = ", ".join(filter(None, (row.size, row.title)))
        which = f"round {planned.round}" if planned.round else "a run that does not count"
        return f"{number}/{total} {row.part}{f' ({what})' if what else ''}, {side}, {which}"


def _figures(found: dict[str, Any], part: str) -> str:
    seconds = found["seconds"]
    if part == "hardware":
        return f"{found['gflops']['square']:.0f} GFLOP/s"
    if part in ("generate", "workers"):
        return f"{1 / seconds:,.0f} tokens/s, {found['memory_mb']:,.0f} MB"
    return f"{seconds:.3f} s/step, {found['memory_mb']:,.0f} MB"


def _settings(args: Args) -> dict[str, Any]:
    given = {
        "--parts": args.parts,
        "--rounds": [args.rounds],
        "--size": args.size,
        "--peers": args.peers,
        "--seed": [args.seed],
        **({"--compare": [args.compare]} if args.compare is not None else {}),
    }
    words = [word for name, values in given.items() for word in (name, *map(str, values))]
    return {
        "command": shlex.join(["textenv", "bench", *words]),
        "parts": args.parts,
        "rounds": args.rounds,
        "size": args.size,
        "peers": args.peers,
    }


def _machine() -> dict[str, Any]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    load = f", load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    return {
        "python": sys.version.split()[0],
        "system": f"{platform.system()} {platform.machine()}, {cores()} core(s){load}",
        "versions": versions,
    }


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
