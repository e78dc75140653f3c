"""The plan of the measurements: the rows of a table, and for each the sides that take turns."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import distributions
from typing import Any

from textenv.algos.bench.hardware import shapes
from textenv.algos.bench.process import cores
from textenv.algos.bench.workload import MODEL_SIZES, Work
from textenv.algos.runtime.backend import EXTRA
from textenv.errors import ConfigError, how_to_install, unknown

OURS = "textenv"
PARTS = {
    "step": "a GRPO step, beside TRL",
    "memory": "peak memory of a GRPO step with a large vocabulary, beside TRL",
    "long": "the first GRPO step with long prompts and answers, beside TRL",
    "generate": "ragged prompts completed at once, beside mlx-lm's BatchGenerator and llama.cpp",
    "groups": "a GRPO step as groups grow, long prompt",
    "workers": "rollouts by two processes, beside one process",
    "start": "from the start of the process to the first step, and what that step takes longer",
    "environment": "a GRPO step on tasks: the share of environments and rewards",
    "hardware": "matrix products and copies: the limits of this machine",
}
PEERS = {
    "trl": (("trl", "torch", "datasets", "accelerate"), how_to_install("trl")),
    "mlx-lm": (("mlx_lm",), how_to_install(EXTRA)),
    "llama.cpp": (
        ("llama_cpp", "gguf"),
        "pip install llama-cpp-python gguf, which needs a C++ compiler and some minutes",
    ),
}
WORKERS = 2


@dataclass(frozen=True)
class Side:
    """One of the sides of a row that take turns: a probe, its arguments and its environment."""

    name: str
    probe: str
    guess: float
    """Seconds of a run on two cores, roughly; used until a run has been measured."""
    arguments: dict[str, Any] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)
    """Environment variables of the process."""
    peer: str = ""
    """The library that is measured, if it is not this one."""
    of: str = ""
    """The side whose code at an earlier commit this is."""


@dataclass(frozen=True)
class Row:
    """A row of a table: a piece of work, and the sides that do it."""

    part: str
    size: str
    """Size of the model; empty if there is no model, or it is not one of `MODEL_SIZES`."""
    work: Work | None
    sides: tuple[Side, ...]
    warm: bool = False
    """Whether each side has a run that does not count before the first."""

    @property
    def title(self) -> str:
        """The work, in words."""
        return self.work.title if self.work else ""

    @property
    def present(self) -> tuple[Side, ...]:
        """The sides without those of an earlier commit."""
        return tuple(side for side in self.sides if not side.of)


# Small models are timed over many steps, so that most steps have shapes that occurred before.
# part -> size -> work, and a guess at the seconds of a run: ours, the peer's.
_BESIDE_TRL: dict[str, dict[str, list[tuple[Work, float, float]]]] = {
    "step": {
        "tiny": [(Work(2, 4, 8, 12, 4, timed=2), 4, 12)],
        "small": [
            (Work(8, 8, 24, 40, 24, timed=20), 9, 20),
            (Work(16, 8, 24, 40, 24, timed=20), 11, 28),
            (Work(16, 8, 48, 64, 32, timed=20), 14, 35),
        ],
        "medium": [
            (Work(4, 8, 128, 128, 48, timed=3), 15, 45),
            (Work(4, 16, 400, 400, 24, timed=2), 25, 260),
        ],
        "smollm2": [
            (Work(8, 8, 40, 40, 24, timed=3), 90, 340),
            (Work(2, 8, 250, 250, 64, timed=3), 100, 400),
        ],
    },
    "memory": {"vocabulary": [(Work(4, 8, 32, 32, 32, timed=2), 30, 75)]},
    "long": {
        "tiny": [(Work(2, 4, 32, 32, 16, timed=0, micro_batch=2), 4, 12)],
        "smollm2": [(Work(4, 8, 1024, 1024, 512, timed=0, micro_batch=4), 460, 1100)],
    },
}
STEPS = tuple(_BESIDE_TRL)  # the parts that are GRPO steps beside TRL
_GENERATE: dict[str, list[tuple[Work, float, float]]] = {
    "tiny": [(Work(4, max_new=4, timed=2), 4, 4)],
    "small": [(Work(batch, max_new=32, timed=12), 8, 12) for batch in (64, 128, 256)],
    "medium": [(Work(batch, max_new=32, timed=5), 25, 40) for batch in (64, 128, 256)],
    "smollm2": [
        (Work(batch, max_new=24, timed=3), batch / 2 + 10, batch + 10) for batch in (16, 64, 256)
    ],
}
_GROUPS: dict[str, tuple[Work, float]] = {
    "tiny": (Work(1, 1, 48, 48, 4, timed=2), 4),
    "medium": (Work(1, 1, 1024, 1024, 64, timed=3), 20),
}
_GROUP_SIZES = (4, 8, 16, 32)
_COLLECT: dict[str, list[tuple[Work, float]]] = {
    "tiny": [(Work(4, 4, max_new=4, timed=2), 5)],
    "small": [
        (Work(8, 16, 64, 96, 48, timed=12), 9),
        (Work(32, 16, 24, 40, 24, timed=12), 9),
        (Work(128, 16, 24, 40, 24, timed=5), 15),
    ],
    "medium": [(Work(32, 16, 24, 40, 24, timed=2), 20)],
    "smollm2": [(Work(8, 8, 40, 40, 24, timed=3), 40)],
}
_START: dict[str, tuple[Work, float]] = {
    "tiny": (Work(2, 4, 8, 12, 4, timed=2), 4),
    "small": (Work(8, 8, 24, 40, 24, timed=5), 6),
    "medium": (Work(4, 8, 128, 128, 48, timed=3), 15),
    "smollm2": (Work(8, 8, 40, 40, 24, timed=2), 70),
}
_TASKS = {
    "tiny": [Work(2, 4, max_new=4, timed=2, task="arithmetic")],
    "small": [
        Work(32, 16, max_new=64, timed=8, task="arithmetic"),
        Work(32, 16, max_new=24, timed=5, task="countdown"),
        Work(8, 16, max_new=8, timed=3, task="guess_number"),
    ],
}
_TINY_LM = "tiny-lm"  # the model that plays the tasks


def make_plan(
    parts: Sequence[str], sizes: Sequence[str], peers: Sequence[str], models: dict[str, str]
) -> list[Row]:
    """Make the rows of the chosen parts.

    Args:
        parts: names of `PARTS`.
        sizes: names of `MODEL_SIZES`.
        peers: names of `PEERS`.
        models: the folder of each size's model.

    Raises:
        ConfigError: if a part, a size or a peer is not known, or if there is nothing to measure.
    """
    for what, names, known in (
        ("part", parts, PARTS),
        ("size", sizes, MODEL_SIZES),
        ("peer", peers, PEERS),
    ):
        for name in names:
            if name not in known:
                raise ConfigError(unknown(what, name, known))
    rows: list[Row] = []
    for part in (part for part in PARTS if part in parts):
        for size in (size for size in MODEL_SIZES if size in sizes):
            rows += _rows_of(part, size, models[size])
        if part == "hardware":
            rows.append(_hardware(sizes))
    rows = [_without(row, peers) for row in rows]
    if not rows:
        raise ConfigError(f"{', '.join(parts)}: nothing to measure with models {', '.join(sizes)}")
    return rows


def with_commit(row: Row, name: str, folder: str) -> Row:
    """The row, in which an earlier commit takes its turn after each side of this package.

    What the machine can do is measured without it.

    Args:
        row: the row.
        name: how the commit is called.
        folder: the folder that has the package as it was then.
    """
    path = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))
    sides: list[Side] = []
    for side in row.sides:
        sides.append(side)
        if row.work and not side.peer:
            environ = {**side.environ, "PYTHONPATH": path}
            sides.append(
                replace(side, name=f"{side.name} at {name}", environ=environ, of=side.name)
            )
    return replace(row, sides=tuple(sides))


def missing(peer: str) -> str:
    """The command that installs a peer; empty if it is installed."""
    packages, install = PEERS[peer]
    return "" if all(map(importlib.util.find_spec, packages)) else install


def _rows_of(part: str, size: str, model: str) -> list[Row]:
    if part in _BESIDE_TRL:
        return [
            Row(part, size, work, (*_trainers(part, a, model, work), _trl(b, model, work)))
            for work, a, b in _BESIDE_TRL[part].get(size, ())
        ]
    if part == "generate":
        return [
            Row(
                part,
                size,
                work,
                (
                    _side(OURS, "generate", a, model, work),
                    _side("mlx-lm", "mlx-lm-generate", b, model, work, peer="mlx-lm"),
                    _side("llama.cpp", "llama-cpp-generate", b, model, work, peer="llama.cpp"),
                ),
            )
            for work, a, b in _GENERATE.get(size, ())
        ]
    if part == "groups" and size in _GROUPS:
        work, guess = _GROUPS[size]
        sides = tuple(
            _side(str(g), "train", guess, model, work._replace(generations=g), prompt_cost=True)
            for g in _GROUP_SIZES
        )
        return [Row(part, size, work, sides)]
    if part == "workers":
        return [
            Row(part, size, work, tuple(_collectors(work, guess, model)))
            for work, guess in _COLLECT.get(size, ())
        ]
    if part == "start" and size in _START:
        work, guess = _START[size]
        return [Row(part, size, work, (_side(OURS, "train", guess, model, work),), warm=True)]
    if part == "environment":
        return [
            Row(part, "", work, (_side(OURS, "train", 8, _TINY_LM, work),))
            for work in _TASKS.get(size, ())
        ]
    return []


def _trainers(part: str, guess: float, model: str, work: Work) -> list[Side]:
    """One process; for a step on a CPU with several cores also one with workers."""
    sides = [_side(OURS, "train", guess, model, work)]
    if part == "step" and cores() > 1 and _on_cpu():
        name = f"{OURS}, {WORKERS} workers"
        sides.append(_side(name, "train", guess, model, work, workers=WORKERS))
    return sides


def _on_cpu() -> bool:
    """Whether this is the MLX of Linux without a GPU."""
    return any(distributions(name="mlx-cpu"))


def _collectors(work: Work, guess: float, model: str) -> list[Side]:
    """One process, its products on one core or on all cores; and several processes."""
    settings = [(f"1 process, BLAS on {n}", 0, n) for n in sorted({1, cores()})]
    return [
        _side(
            name,
            "collect",
            guess,
            model,
            work,
            environ={"OPENBLAS_NUM_THREADS": str(threads)},
            workers=workers,
        )
        for name, workers, threads in [*settings, (f"{WORKERS} workers", WORKERS, cores())]
    ]


def _hardware(sizes: Sequence[str]) -> Row:
    products = shapes({name: MODEL_SIZES[name] for name in MODEL_SIZES if name in sizes})
    arguments = {"products": products}
    return Row(
        "hardware",
        "",
        None,
        (Side(OURS, "rates", 8, arguments), Side("trl", "torch-rates", 8, arguments, peer="trl")),
    )


def _side(
    name: str,
    probe: str,
    guess: float,
    model: str,
    work: Work,
    environ: dict[str, str] | None = None,
    peer: str = "",
    **arguments: Any,
) -> Side:
    return Side(name, probe, guess, {"model": model, "work": work} | arguments, environ or {}, peer)


def _trl(guess: float, model: str, work: Work) -> Side:
    return _side("trl", "trl-train", guess, model, work, peer="trl")


def _without(row: Row, peers: Sequence[str]) -> Row:
    """The row without the peers that were not asked for."""
    sides = tuple(side for side in row.sides if not side.peer or side.peer in peers)
    return replace(row, sides=sides)
