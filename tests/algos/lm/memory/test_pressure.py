"""The warning that comes before memory runs out."""

import sys
import threading
import warnings

import pytest

from textenv.algos.lm.memory import pressure
from textenv.algos.lm.memory.limits import MemoryLimit
from textenv.algos.lm.memory.pressure import out_of_memory
from textenv.algos.runtime import backend
from textenv.errors import OutOfMemoryError

backend.prepare()

import mlx.core as mx  # noqa: E402

GB = 10**9


@pytest.fixture
def held(monkeypatch):
    """``held(*shares)``: what each look finds of 8 GB in turn, the last from then on."""
    if sys.platform != "linux" or mx.default_device() != mx.cpu:
        pytest.skip("memory is watched on a Linux CPU alone")
    monkeypatch.setattr(pressure, "memory_limit", lambda: MemoryLimit(8 * GB, "the room"))
    monkeypatch.setattr(pressure, "_EVERY", 0.001)

    def of(*shares):
        looked, left = threading.Event(), list(shares)

        def resident():
            share = left.pop(0)
            if not left:
                left.append(share)
                looked.set()
            return int(share * 8 * GB)

        monkeypatch.setattr(pressure, "resident", resident)
        return looked

    return of


def said(looked):
    """The warnings of a block that ends once all looks were taken."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with out_of_memory("updating", "lower it"):
            assert looked.wait(60)
    return [str(w.message) for w in caught if w.category is RuntimeWarning]


def test_nearly_full_memory_is_warned_of_once(held):
    (message,) = said(held(0.5, 0.94, 0.98))
    assert "nearly full while updating: 7.8 GB of 8.0 GB, the room" in message
    assert "lower it" in message


def test_there_is_no_warning_below_the_share(held):
    assert said(held(0.90, 0.94, 0.90)) == []


def test_without_a_known_limit_there_is_no_warning(held, monkeypatch):
    monkeypatch.setattr(pressure, "memory_limit", lambda: None)
    assert said(held(2.0, 2.0, 2.0)) == []


def test_looking_on_ends_with_the_block(held):
    said(held(0.5, 0.5))
    assert not [thread for thread in threading.enumerate() if thread.name == "memory"]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[malloc] Unable to allocate 1073741824 bytes."),
        RuntimeError("[metal::malloc] Attempting to allocate 17 bytes which is greater than ..."),
        RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory (00000008)"),
        RuntimeError("cudaMallocAsync(&data, size, stream) failed: out of memory"),
    ],
)
def test_what_runs_out_says_what_to_lower(error):
    expected = pytest.raises(OutOfMemoryError, match="while updating: lower it")
    with expected as caught, out_of_memory("updating", "lower it"):
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [RuntimeError("[matmul] shapes"), ValueError("out of memory")])
def test_other_errors_go_by(error):
    with pytest.raises(type(error)) as caught, out_of_memory("updating", "lower it"):
        raise error
    assert caught.value is error
