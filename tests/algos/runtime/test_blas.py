"""Each scenario runs in a process of its own, so that the order of the imports is known."""

import hashlib
import json
import os
import sys
from pathlib import Path

import pytest

from tests.algos.runtime.shared import DIRECT, LOAD, has_mlx_cpu, needs_openblas, run, start
from textenv.algos.runtime import blas

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the BLAS is replaced on Linux only"),
    pytest.mark.skipif(not has_mlx_cpu(), reason="needs the wheel mlx-cpu"),
]


# Calls load() twice, then leaves the warnings' messages, the status and an MLX product.
REPORT = """
import json, warnings
from textenv.algos.runtime import blas
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    blas.load()
    blas.load()
import mlx.core as mx
print(json.dumps({
    "name": blas.status().name,
    "detail": blas.status().detail,
    "warnings": [str(w.message) for w in caught],
    "product": (mx.ones((4, 8)) @ mx.ones((8, 4))).tolist(),
}))
"""


def report(cache, before="", **env):
    result = json.loads(run(before + REPORT, cache, **env))
    assert result["product"] == [[8.0] * 4] * 4  # whatever happened, MLX works
    return result


@needs_openblas
@pytest.mark.parametrize("threads", [1, 3])
def test_a_product_of_mlx_starts_the_threads_of_the_shim(cache, threads):
    """So it is OpenBLAS that computes MLX's products, on as many threads as were asked for."""
    check = """
import os
def product(size):
    a = mx.ones((size, size))
    assert (a @ a)[0, 0].item() == size
    return len(os.listdir("/proc/self/task"))
before = product(16)  # too small to be cut; MLX has started its own threads from here on
print(product(1024) - before)
"""
    assert int(run(LOAD + check, cache, OPENBLAS_NUM_THREADS=str(threads))) == threads - 1


ZEN5 = "vendor_id\t: AuthenticAMD\nflags\t\t: avx2 avx512f avx512cd avx512bw avx512dq avx512vl"


@pytest.mark.parametrize(
    ("cpu_info", "kernels"),
    [
        (ZEN5, "SkylakeX"),
        (ZEN5 + " avx512_bf16", "Cooperlake"),
        (ZEN5.replace("AuthenticAMD", "GenuineIntel"), None),  # OpenBLAS knows these
        (ZEN5.replace("avx512vl", ""), None),
        ("", None),
    ],
)
def test_kernels_are_named_for_amds_avx512_alone(monkeypatch, cpu_info, kernels):
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    with blas._kernels_for(cpu_info):
        assert os.environ.get("OPENBLAS_CORETYPE") == kernels
    assert "OPENBLAS_CORETYPE" not in os.environ
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")  # the user's word counts
    with blas._kernels_for(cpu_info):
        assert os.environ["OPENBLAS_CORETYPE"] == "Haswell"


@needs_openblas
def test_openblas_uses_the_kernels_of_this_processor(cache):
    check = """
openblas = ctypes.CDLL(blas.status().detail.split(", ")[0])
openblas.scipy_openblas_get_corename.restype = ctypes.c_char_p
print(openblas.scipy_openblas_get_corename().decode())
"""
    flags = Path("/proc/cpuinfo").read_text().split()
    core = run(DIRECT + check, cache, OPENBLAS_CORETYPE="Haswell").strip()
    assert core == "Haswell"
    if "AuthenticAMD" in flags and blas.AVX512.issubset(flags):
        forget = 'import os; os.environ.pop("OPENBLAS_CORETYPE", None)\n'
        core = run(forget + DIRECT + check, cache).strip()
        assert core in ("SkylakeX", "Cooperlake")


@needs_openblas
def test_only_the_shims_functions_become_global(cache):
    check = """
import ctypes
everything = ctypes.CDLL(None)
assert hasattr(everything, "cblas_sgemm")
for name in ("scipy_cblas_sgemm", "cblas_cdotu_sub", "cdotu_", "claqz0_"):
    assert not hasattr(everything, name), name
"""
    run(LOAD + check, cache)


@needs_openblas
@pytest.mark.parametrize(
    ("asked", "threads"),
    [("1", 1), ("2", 2), ("5", 5), ("1000", 64), ("", None), ("0", None), ("many", None)],
)
def test_threads(cache, asked, threads):
    check = """
def started(size):
    before = count_threads()
    multiply(a[:size, :size], b[:size, :size], c[:size, :size])
    return count_threads() - before
openblas, threads = blas.status().detail.split(", ")
assert ctypes.CDLL(openblas).scipy_openblas_get_num_threads() == 1  # the shim's threads alone
print(threads, started(50), started(400), started(400))  # a small product needs no pool
"""
    threads = threads or min(len(os.sched_getaffinity(0)), 16)
    said = f"{threads} thread{'s' if threads > 1 else ''} 0 {threads - 1} 0"
    assert run(DIRECT + check, cache, OPENBLAS_NUM_THREADS=asked).strip() == said


@needs_openblas
def test_the_other_threads_take_part(cache):
    check = """
import time
def others():  # the seconds that all threads but this one have worked
    return time.process_time() - time.thread_time()
multiply(a, b, c)
before, deadline = others(), time.monotonic() + 60  # other processes may be busy
while others() < before + 0.05:
    assert time.monotonic() < deadline
    multiply(a, b, c)
"""
    run(DIRECT + check, cache, OPENBLAS_NUM_THREADS="2")


@needs_openblas
def test_threads_are_no_more_than_the_cpus_this_process_may_use(cache):
    check = "print(blas.status().detail)"
    pinned = "import os; os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])\n"
    assert run(pinned + DIRECT + check, cache, OPENBLAS_NUM_THREADS="").endswith(", 1 thread\n")


@needs_openblas
def test_the_compiled_shim_is_reused(tmp_path):
    run(LOAD, tmp_path)
    (shim,) = (tmp_path / "textenv").iterdir()
    before = shim.stat()
    run(LOAD, tmp_path, PATH="")  # no compiler is needed any more
    assert list((tmp_path / "textenv").iterdir()) == [shim]
    assert (shim.stat().st_mtime_ns, shim.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


@needs_openblas
def test_processes_may_race_to_build_it(tmp_path):
    racing = [
        start(LOAD + "assert (mx.ones((9, 9)) @ mx.ones((9, 9))).sum().item() == 729", tmp_path)
        for _ in range(3)
    ]
    for process in racing:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    assert len(list((tmp_path / "textenv").iterdir())) == 1


def test_off_leaves_the_bundled_blas(tmp_path):
    result = report(tmp_path, TEXTENV_BLAS="off")
    assert (result["name"], result["warnings"]) == ("bundled", [])
    assert "TEXTENV_BLAS=off" in result["detail"]
    assert not list(tmp_path.iterdir())


def test_status_before_load(tmp_path):
    code = """
from textenv.algos.runtime import blas
assert blas.status().name == "own" and "not been called" in blas.status().detail
"""
    run(code, tmp_path)


def test_mlx_imported_first_warns_once(cache):
    result = report(cache, before="import mlx.core\n")
    assert result["name"] == "bundled"
    (message,) = result["warnings"]
    assert "mlx was imported first; import textenv.algos before mlx" in message
    assert "TEXTENV_BLAS=off" in message


@needs_openblas
def test_no_compiler_warns_and_names_it(tmp_path):
    result = report(tmp_path, PATH="")
    assert result["name"] == "bundled"
    (message,) = result["warnings"]
    assert "no C compiler (cc, gcc, g++, clang)" in message and "install gcc" in message


@needs_openblas
def test_a_compile_error_is_shown(tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho note: hello >&2\necho 'x.c:1: error: no' >&2\nexit 1\n")
    compiler.chmod(0o755)
    result = report(tmp_path / "cache", PATH=str(tmp_path))
    assert result["name"] == "bundled"
    (message,) = result["warnings"]
    assert f"{compiler} failed: x.c:1: error: no;" in message
    assert not list((tmp_path / "cache" / "textenv").iterdir())  # nothing half made stays


@needs_openblas
def test_a_cache_that_cannot_be_written_warns(tmp_path):
    (tmp_path / "file").touch()
    result = report(tmp_path / "file")
    assert result["name"] == "bundled"
    (message,) = result["warnings"]
    assert str(tmp_path / "file") in message and "XDG_CACHE_HOME" in message


@needs_openblas
def test_a_broken_shim_warns_and_names_it(tmp_path):
    run(LOAD, tmp_path)
    (shim,) = (tmp_path / "textenv").iterdir()
    shim.write_bytes(b"not a library")
    result = report(tmp_path)
    assert result["name"] == "bundled"
    (message,) = result["warnings"]
    assert f"delete {shim}" in message


def test_openblas_missing_warns_and_says_what_to_install(tmp_path):
    result = report(tmp_path, before="import sys\nsys.modules['scipy_openblas32'] = None\n")
    assert result["name"] == "bundled"
    (message,) = result["warnings"]
    assert "scipy-openblas32 is not installed: the extra textenv[cpu] brings it" in message


@needs_openblas
@pytest.mark.parametrize("how", ["a byte", "the mode", "all of it"])
def test_a_shim_that_another_hand_has_changed_is_not_loaded(tmp_path, how):
    run(LOAD, tmp_path)
    (shim,) = (tmp_path / "textenv").iterdir()
    content = shim.read_bytes()
    if how == "the mode":
        shim.chmod(0o666)
    else:
        shim.write_bytes(bytes([content[0] ^ 1]) + content[1:] if how == "a byte" else b"")
    result = report(tmp_path)
    assert result["name"] == "bundled" and f"delete {shim}" in result["warnings"][0]


@needs_openblas
def test_a_shim_in_a_folder_that_others_can_write_to_is_built_again(tmp_path):
    run(LOAD, tmp_path)
    (shim,) = (tmp_path / "textenv").iterdir()
    right = shim.read_bytes()
    shim.write_bytes(b"planted" + hashlib.sha256(b"planted").digest())
    (tmp_path / "textenv").chmod(0o777)
    run(LOAD, tmp_path)
    assert shim.read_bytes() == right
    assert (tmp_path / "textenv").stat().st_mode & 0o777 == 0o700


@needs_openblas
def test_a_relative_cache_is_not_one(tmp_path):
    code = f"import os; os.chdir({str(tmp_path)!r})\n" + LOAD
    run(code, "planted", HOME=str(tmp_path / "home"))
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert len(list((tmp_path / "home" / ".cache" / "textenv").iterdir())) == 1
