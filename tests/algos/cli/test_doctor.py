"""textenv doctor: what is installed, and how fast this machine multiplies."""

from types import SimpleNamespace

import pytest

from textenv.algos.cli import doctor, main


@pytest.fixture
def machine(monkeypatch):
    """A machine of which everything is known."""
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(doctor, "versions", lambda: {"numpy": "1.2.3"})
    status = SimpleNamespace(name="openblas", detail="libopenblas.so, 2 threads")
    monkeypatch.setattr(doctor.blas, "load", lambda: status)
    monkeypatch.setattr(doctor.blas, "measure_gflops", lambda: 123.4)
    monkeypatch.setattr(doctor.heap, "keep_freed_memory", lambda: True)


def lines(capsys):
    assert main(["doctor"]) == 0
    rows = capsys.readouterr().out.splitlines()
    return {row[:18].strip(): row[18:] for row in rows}


def test_every_line(machine, capsys):
    found = lines(capsys)
    assert " on " in found.pop("python") and found.pop("device").startswith("Device(")
    assert found == {
        "numpy": "1.2.3",
        "C++ compiler": "/bin/c++",
        "BLAS": "openblas: libopenblas.so, 2 threads",
        "freed memory": "kept",
        "float32 matmul": "123 GFLOP/s (1024 x 1024, median of 5)",
    }


def test_what_is_missing_is_said(machine, capsys, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.setattr(doctor.heap, "keep_freed_memory", lambda: False)
    found = lines(capsys)
    assert found["C++ compiler"].startswith("none: ") and found["freed memory"] == "given back"
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    found = lines(capsys)
    assert found["device"].startswith("none: MLX is not installed; the extra textenv[")
    assert "BLAS" not in found


def test_it_measures_this_machine(capsys):
    rate = lines(capsys)["float32 matmul"]
    assert float(rate.split()[0]) > 0
