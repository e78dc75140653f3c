"""The machine of a comparison: threads, imports, and what is written down of it."""

import os
import sys

import pytest

from textenv.algos.compare import machine
from textenv.algos.compare.machine import describe_machine, import_seconds, use_threads


@pytest.mark.parametrize("before", [None, "7"])
def test_the_number_of_threads_is_asked_for_while_the_blas_is_loaded(monkeypatch, before):
    """And the user's own setting is there again afterwards, whatever happens."""
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    if before is not None:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", before)
    seen = []

    def prepare():
        seen.append(os.environ["OPENBLAS_NUM_THREADS"])
        raise RuntimeError("no BLAS")

    monkeypatch.setattr(machine.backend, "prepare", prepare)
    with pytest.raises(RuntimeError):
        use_threads(3)
    assert seen == ["3"] and os.environ.get("OPENBLAS_NUM_THREADS") == before


def test_torch_gets_the_threads(one_thread):
    import torch

    used = use_threads(2)
    assert torch.get_num_threads() == 2 and used["torch"] == "2 thread(s)"
    assert used["MLX"]


def test_imports_are_timed_and_what_is_missing_is_left_out(tmp_path, monkeypatch):
    (tmp_path / "slow_to_import.py").write_text(
        "import time\nreal = time.perf_counter\ntime.perf_counter = lambda: real() + 12\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(machine.time, "perf_counter", machine.time.perf_counter)
    found = import_seconds(["slow_to_import", "no_such_module_here"])
    assert list(found) == ["slow_to_import"] and 12 <= found["slow_to_import"] < 60
    del sys.modules["slow_to_import"]


def test_the_description_has_what_was_asked_and_what_was_used():
    found = describe_machine(3, {"MLX": "openblas (2 threads)"})
    assert found["threads asked for"] == 3 and found["threads"] == {"MLX": "openblas (2 threads)"}
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"numpy", "gymnasium", "mlx"} <= found["versions"].keys()
