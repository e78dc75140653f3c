"""Each scenario runs in a process of its own, so that the order of the imports is known."""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from textenv.algos.runtime import blas


def _has_mlx_cpu():
    try:
        importlib.metadata.version("mlx-cpu")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the BLAS is replaced on Linux only"),
    pytest.mark.skipif(not _has_mlx_cpu(), reason="needs the wheel mlx-cpu"),
]
needs_openblas = pytest.mark.skipif(
    importlib.util.find_spec("scipy_openblas32") is None, reason="needs scipy-openblas32"
)
needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="compares with torch"
)

LOAD = """
from textenv.algos.runtime import blas
assert blas.load().name == "openblas", blas.status()
import mlx.core as mx
"""

# The shim without MLX, which does not survive a fork: c = alpha * a @ b + beta * c.
DIRECT = """
import ctypes, os, threading
import numpy as np
from textenv.algos.runtime import blas
assert blas.load().name == "openblas", blas.status()

def multiply(a, b, c, alpha=1.0, beta=0.0, order="C", trans=(False, False)):
    m, n, k = *c.shape, a.shape[0 if trans[0] else 1]
    (a, lda), (b, ldb), (c, ldc) = (
        (ctypes.c_void_p(x.ctypes.data), x.strides["CF".index(order)] // x.itemsize)
        for x in (a, b, c)
    )
    codes = [{"C": 101, "F": 102}[order], *(112 if t else 111 for t in trans)]
    alpha, beta = ctypes.c_float(alpha), ctypes.c_float(beta)
    ctypes.CDLL(None).cblas_sgemm(*codes, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc)

def count_threads():
    return len(os.listdir("/proc/self/task"))

rng = np.random.default_rng(0)
a, b = (rng.standard_normal((400, 400)).astype("float32") for _ in range(2))
c, want = np.zeros_like(a), np.zeros_like(a)
"""

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


def start(code, cache, **env):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "TEXTENV_BLAS": "", "XDG_CACHE_HOME": str(cache), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(code, cache, **env):
    process = start(code, cache, **env)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def report(cache, before="", **env):
    result = json.loads(run(before + REPORT, cache, **env))
    assert result["product"] == [[8.0] * 4] * 4  # whatever happened, MLX works
    return result


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@needs_openblas
@needs_torch
@pytest.mark.parametrize("first", ["blas", "torch", "numpy"])
def test_complex_dots_of_torch_and_numpy_stay_right(cache, first):
    parts = {"blas": LOAD, "torch": "import torch\n", "numpy": "import numpy as np\n"}
    imports = parts.pop(first) + "".join(parts.values())
    check = """
x = [complex(i + 1, 2 * i - 3) for i in range(7)]
y = [complex(5 - i, i) for i in range(7)]
dot = sum(a * b for a, b in zip(x, y))
vdot = sum(a.conjugate() * b for a, b in zip(x, y))
for dtype in (torch.complex64, torch.complex128):
    a, b = torch.tensor(x, dtype=dtype), torch.tensor(y, dtype=dtype)
    assert torch.dot(a, b).item() == dot, (dtype, torch.dot(a, b), dot)
    assert torch.vdot(a, b).item() == vdot, (dtype, torch.vdot(a, b), vdot)
for dtype in (np.complex64, np.complex128):
    a, b = np.array(x, dtype), np.array(y, dtype)
    assert np.dot(a, b) == dot and np.vdot(a, b) == vdot, dtype
m = mx.array(x, dtype=mx.complex64)[None] @ mx.array(y, dtype=mx.complex64)[:, None]
assert m.item() == dot, (m, dot)
"""
    run(imports + check, cache)


@needs_openblas
def test_products_equal_numpys(cache):
    check = """
import numpy as np
rng = np.random.default_rng(0)
def draw(shape, dtype):
    x = rng.standard_normal(shape)
    if dtype == "complex64":
        x = x + 1j * rng.standard_normal(shape)
    return x.astype(dtype)

shapes = [((1, 5), (5, 3)), ((33, 17), (17, 65)), ((300, 128), (128, 257)),
          ((3, 40, 24), (3, 24, 56)), ((2, 3, 9, 16), (16, 11)), ((4, 1, 8, 6), (5, 6, 7))]
for dtype, tolerance in ("float32", 1e-5), ("float64", 1e-13), ("complex64", 1e-5):
    for left, right in shapes:
        a, b = draw(left, dtype), draw(right, dtype)
        at, bt = (np.ascontiguousarray(x.swapaxes(-1, -2)) for x in (a, b))
        want = a @ b
        A, B, AT, BT = (mx.array(x, dtype=getattr(mx, dtype)) for x in (a, b, at, bt))
        for p in (A, AT.swapaxes(-1, -2)):
            for q in (B, BT.swapaxes(-1, -2)):
                got = np.array(p @ q)
                assert got.dtype == want.dtype and got.shape == want.shape
                np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * left[-1])
"""
    run(LOAD + check, cache)


@needs_openblas
@pytest.mark.parametrize("threads", ["1", "2", "3", "5"])
def test_shared_products_equal_numpys(cache, threads):
    check = """
import numpy as np
rng = np.random.default_rng(0)
# All but the last are large enough to be cut, those in a batch too.
shapes = [((1, 3000), (3000, 3001)), ((3003, 3000), (3000, 1)), ((3001, 1), (1, 3003)),
          ((263, 197), (197, 401)), ((401, 131), (131, 263)), ((7, 907), (907, 1303)),
          ((33, 9001), (9001, 35)), ((3, 151, 307), (307, 203)), ((2, 1, 151, 307), (3, 307, 203)),
          ((31, 17), (17, 9))]
for left, right in shapes:
    a, b = (rng.standard_normal(shape).astype("float32") for shape in (left, right))
    product = a @ b
    c = rng.standard_normal(product.shape).astype("float32")
    close = dict(rtol=0, atol=1e-5 * left[-1] ** 0.5)
    A, B, C, AT, BT = (mx.array(np.ascontiguousarray(x))
                       for x in (a, b, c, a.swapaxes(-1, -2), b.swapaxes(-1, -2)))
    for p in (A, AT.swapaxes(-1, -2)):
        for q in (B, BT.swapaxes(-1, -2)):
            np.testing.assert_allclose(np.array(p @ q), product, **close)
            got = np.array(mx.addmm(C, p, q, alpha=0.5, beta=-2.0))
            np.testing.assert_allclose(got, 0.5 * product - 2 * c, **close)
"""
    run(LOAD + check, cache, OPENBLAS_NUM_THREADS=threads)


@needs_openblas
@pytest.mark.parametrize("threads", ["2", "3"])
def test_parts_of_larger_arrays_in_either_order(cache, threads):
    check = """
for m, n, k in (330, 290, 91), (290, 330, 91), (20, 801, 600), (801, 20, 600), (9, 8, 7):
    for order in "CF":
        for ta, tb in (False, False), (True, False), (False, True), (True, True):
            whole = [np.asarray(rng.standard_normal((i + 3, j + 5)), "float32", order)
                     for i, j in ((k, m) if ta else (m, k), (n, k) if tb else (k, n), (m, n))]
            a, b, c = (x[:-3, :-5] for x in whole)
            want = whole[2].copy()  # what is not c must stay
            want[:-3, :-5] = 1.5 * (a.T if ta else a) @ (b.T if tb else b) - c
            multiply(a, b, c, 1.5, -1.0, order, (ta, tb))
            np.testing.assert_allclose(whole[2], want, rtol=0, atol=1e-3)
"""
    run(DIRECT + check, cache, OPENBLAS_NUM_THREADS=threads)


@needs_openblas
def test_a_product_is_the_same_to_the_last_bit_whoever_computes_it(cache):
    check = """
multiply(a, b, want)
def repeat():
    c = np.zeros_like(a)
    for _ in range(200):  # often the pool is taken by the other thread
        c[:] = 0
        multiply(a, b, c)
        equal.append(np.array_equal(c, want))
equal = []
both = [threading.Thread(target=repeat) for _ in range(2)]
[thread.start() for thread in both]
[thread.join() for thread in both]
assert len(equal) == 400 and all(equal)
"""
    run(DIRECT + check, cache, OPENBLAS_NUM_THREADS="3")


@needs_openblas
def test_two_streams_multiply_at_once(cache):
    check = """
import threading
import numpy as np
a, b = (np.random.default_rng(i).standard_normal((500, 500)).astype("float32") for i in range(2))
wrong, done = [], []
def repeat(left, right):
    with mx.stream(mx.new_stream(mx.cpu)):
        p, q = mx.array(left), mx.array(right)
        want = left @ right
        for _ in range(50):
            wrong.append(np.abs(np.array(p @ q) - want).max() > 1e-3)
    done.append(True)
both = [threading.Thread(target=repeat, args=pair) for pair in ((a, b), (b, a))]
[thread.start() for thread in both]
[thread.join() for thread in both]
assert len(done) == 2 and not any(wrong)
"""
    run(LOAD + check, cache, OPENBLAS_NUM_THREADS="2")


@needs_openblas
@pytest.mark.parametrize("busy", [False, True])
def test_a_forked_child_multiplies(cache, busy):
    check = """
import signal, time
multiply(a, b, want)
def repeat():
    c = np.zeros_like(a)
    while going:
        multiply(a, b, c)
going = BUSY
thread = threading.Thread(target=repeat, daemon=True)
thread.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # ends a child that hangs
        before = count_threads()
        multiply(a, b, c)
        os._exit(0 if np.array_equal(c, want) and count_threads() == before + 1 else 1)
    assert os.waitpid(child, 0)[1] == 0
    c[:] = 0
    multiply(a, b, c)
    assert np.array_equal(c, want)
going = False
thread.join()
"""
    run(DIRECT + check.replace("BUSY", str(busy)), cache, OPENBLAS_NUM_THREADS="2")


@needs_openblas
def test_exit_while_multiplying(cache):
    check = """
def repeat():
    c = np.zeros_like(a)
    while True:
        multiply(a, b, c)
for _ in range(2):
    threading.Thread(target=repeat, daemon=True).start()
multiply(a, b, c)
"""
    run(DIRECT + check, cache, OPENBLAS_NUM_THREADS="3")


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
print(threads, started(100), started(400), started(400))  # a small product needs no pool
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
    assert 'scipy-openblas32 is not installed; pip install "textenv[cpu]"' in message


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
