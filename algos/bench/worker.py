"""The process that makes one measurement: ``python -m textenv.algos.bench.worker JOB RESULT``.

JOB is JSON: the name of a probe, and its arguments. RESULT is the file to write the answer to.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from textenv.algos.bench.workload import MODEL_SIZES, Work, make_model

# name -> module and function, imported only in the process that needs it
PROBES = {
    "train": ("ours", "train"),
    "generate": ("ours", "generate"),
    "collect": ("ours", "collect"),
    "rates": ("hardware", "mlx_rates"),
    "trl-train": ("peers.trl", "train"),
    "torch-rates": ("hardware", "torch_rates"),
    "mlx-lm-generate": ("peers.mlx_lm", "generate"),
    "llama-cpp-generate": ("peers.llama_cpp", "generate"),
}


def make(size: str, folder: str, seed: int, started: float) -> dict[str, Any]:
    """Write a model of a size, for the measurements that follow."""
    make_model(MODEL_SIZES[size], folder, seed)
    return {"seconds": 0.0}


def main(argv: list[str]) -> None:
    """Run the probe that the job names, and write its answer."""
    job = json.loads(argv[0])
    arguments = job["arguments"]
    if "work" in arguments:
        arguments["work"] = Work(*arguments["work"])
    probe: Callable[..., dict[str, Any]] = make
    if job["probe"] != "make":
        module, name = PROBES[job["probe"]]
        probe = getattr(importlib.import_module(f"textenv.algos.bench.{module}"), name)
    answer = probe(**arguments, started=job["started"])
    Path(argv[1]).write_text(json.dumps(answer, default=float), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
