"""Freed memory stays with the process."""

import os
import subprocess
import sys
from types import SimpleNamespace

import mlx.core as mx
import pytest

from textenv.algos.runtime import heap

FAULTS = """
import resource, mlx.core as mx
from textenv.algos.runtime import heap
kept = heap.keep_freed_memory()
def touch():
    mx.eval(mx.ones((4096, 4096)) + 1)  # 64 MB twice
touch(), touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4): touch()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
@pytest.mark.skipif(mx.default_device() != mx.cpu, reason="arrays of a CPU")
def test_freed_memory_is_not_paid_for_again():
    def faults(**env):
        done = subprocess.run(
            [sys.executable, "-c", FAULTS],
            capture_output=True,
            text=True,
            timeout=120,
            env=os.environ | env,
        )
        assert done.returncode == 0, done.stderr
        kept, count = done.stdout.split()
        return kept == "True", int(count)

    kept, few = faults()
    left, many = faults(TEXTENV_HEAP="off")
    assert kept and not left
    # 512 MB in pages of 4 kB are 131,072 faults; huge pages make that fewer.
    assert few < 0.1 * many, (few, many)


@pytest.fixture
def libc(monkeypatch):
    """``libc(answer)``: a C library whose ``mallopt`` answers so; what it was asked."""
    asked = []

    def use(answer):
        def mallopt(name, value):
            asked.append((name, value))
            return answer

        library = SimpleNamespace() if answer is None else SimpleNamespace(mallopt=mallopt)
        monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: library)
        return asked

    monkeypatch.setattr(heap.sys, "platform", "linux")
    monkeypatch.delenv("TEXTENV_HEAP", raising=False)
    return use


def test_both_thresholds_are_set(libc):
    asked = libc(1)
    assert heap.keep_freed_memory() is True
    # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h.
    assert asked == [(-3, 2**30), (-1, 2**31 - 1)]


@pytest.mark.parametrize("answer", [0, None])
def test_a_library_that_cannot_says_so(libc, answer):
    libc(answer)
    assert heap.keep_freed_memory() is False


@pytest.mark.parametrize(("platform", "wish"), [("darwin", ""), ("linux", "off")])
def test_the_library_is_left_alone(libc, monkeypatch, platform, wish):
    asked = libc(1)
    monkeypatch.setattr(heap.sys, "platform", platform)
    monkeypatch.setenv("TEXTENV_HEAP", wish)
    assert heap.keep_freed_memory() is False and asked == []
