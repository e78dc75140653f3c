"""Products of the BLAS that is put in place, against NumPy's and torch's."""

import sys

import pytest

from tests.algos.runtime.shared import DIRECT, LOAD, has_mlx_cpu, needs_openblas, needs_torch, run

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the BLAS is replaced on Linux only"),
    pytest.mark.skipif(not has_mlx_cpu(), reason="needs the wheel mlx-cpu"),
]


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
# All but the last are large enough to be cut, or halved (the first three); those in a batch too.
shapes = [((131, 97), (97, 151)), ((7, 401), (401, 503)), ((503, 401), (401, 7)),
          ((1, 3000), (3000, 3001)), ((3003, 3000), (3000, 1)), ((3001, 1), (1, 3003)),
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
for m, n, k in (330, 290, 91), (290, 330, 91), (20, 801, 600), (801, 20, 600), (150, 130, 91), (
        130, 150, 91), (20, 301, 400), (301, 20, 400), (9, 8, 7):
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
def test_products_are_counted(cache):
    check = """
import time
before = blas.count_products()
a, b = mx.ones((300, 128)), mx.ones((128, 257))
mx.eval(a, b)
assert blas.count_products() == before
began = time.perf_counter()
mx.eval(a @ b, mx.ones((5, 2, 8)) @ mx.ones((5, 8, 3)))
mx.synchronize()
passed = time.perf_counter() - began
found = blas.count_products().since(before)
assert found.operations == 2 * (300 * 128 * 257 + 5 * 2 * 8 * 3), found
assert 0 < found.seconds < passed, (found, passed)
"""
    run(LOAD + check, cache)


def test_products_of_a_blas_that_is_not_ours_are_not_counted(cache):
    run("from textenv.algos.runtime import blas\nassert blas.count_products() is None", cache)


@needs_openblas
@pytest.mark.parametrize("limit", [2, 3])
def test_no_more_threads_are_awake_than_the_limit_says(cache, limit):
    """Waiting for the next product without sleeping counts: here for two seconds, not 50 us."""
    check = f"""
import time
ctypes.c_int.in_dll(blas._shim, "textenv_linger").value = 2_000_000_000
blas.limit_threads({limit})
for _ in range(20):
    multiply(a, b, c)
    time.sleep(0.01)
states = []
for task in os.listdir("/proc/self/task"):
    if int(task) != os.getpid():
        states.append(open(f"/proc/self/task/{{task}}/stat").read().rsplit(") ", 1)[1][0])
print(states.count("R"))
"""
    assert int(run(DIRECT + check, cache, OPENBLAS_NUM_THREADS="4")) == limit - 1
