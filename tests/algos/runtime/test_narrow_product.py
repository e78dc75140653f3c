"""Products with few rows, beside float64 and beside OpenBLAS, with each kind of registers."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.algos.runtime.shared import DIRECT, LOAD, has_mlx_cpu, needs_openblas, run

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the BLAS is replaced on Linux only"),
    pytest.mark.skipif(not has_mlx_cpu(), reason="needs the wheel mlx-cpu"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="OpenBLAS computes them elsewhere"),
    needs_openblas,
]

START = (
    LOAD
    + """
import ctypes
import numpy as np
from textenv.errors import ConfigError
lanes = ctypes.c_int.in_dll(blas._shim, "textenv_lanes")
rng = np.random.default_rng(0)

def product(a, b, most):
    lanes.value = most
    c = mx.array(a) @ mx.array(b).T
    mx.eval(c)
    return np.array(c)
"""
)


@pytest.mark.parametrize("lanes", [8, 16])
def test_it_is_the_product(cache, lanes):
    """Of sizes that fill no tile, around those that do; the bound is that of a sum of k terms."""
    check = f"""
for m in (1, 2, 3, 4, 5, 13, 159, 160, 161):
    for n, k in ((193, 577), (1024, 64), (96, 700), (256, 255), (5000, 17)):
        a = rng.standard_normal((m, k), dtype=np.float32)
        b = rng.standard_normal((n, k), dtype=np.float32)
        exact = a.astype(float) @ b.T.astype(float)
        most = 2**-24 * k * (np.abs(a).astype(float) @ np.abs(b.T).astype(float))
        assert (np.abs(product(a, b, {lanes}) - exact) <= most).all(), (m, n, k)
print("right")
"""
    assert run(START + check, cache).strip() == "right"


def test_rows_do_not_depend_on_each_other_nor_on_threads(cache):
    """A row by itself, beside others and beside NaN is the same to the last bit."""
    check = """
b = rng.standard_normal((700, 333), dtype=np.float32)
a = rng.standard_normal((160, 333), dtype=np.float32)
for most in (8, 16):
    whole = product(a, b, most)
    for rows in (1, 2, 3, 7, 64):
        np.testing.assert_array_equal(product(a[:rows], b, most), whole[:rows])
    spoilt = a.copy()
    spoilt[5], spoilt[6] = np.nan, np.inf
    kept = np.delete(np.arange(160), [5, 6])
    np.testing.assert_array_equal(product(spoilt, b, most)[kept], whole[kept])
    assert np.isnan(product(spoilt, b, most)[5]).all()
    blas.limit_threads(1)
    np.testing.assert_array_equal(product(a, b, most), whole)
    blas.limit_threads(2)
print("equal")
"""
    assert run(START + check, cache, OPENBLAS_NUM_THREADS="2").strip() == "equal"


HALF = """
def half(a, b):
    a, b = mx.array(a), mx.array(b)
    mx.eval(a, b)
    with blas.half_products([np.asarray(b)]):
        c = a @ b.T
        mx.eval(c)
    return np.array(c)
def rounded(x):
    return np.array(mx.array(x).astype(mx.bfloat16).astype(mx.float32)).astype(float)
def kept(b):
    # The matrix that is multiplied by: the columns of the product with the identity.
    return half(np.eye(b.shape[1], dtype=np.float32), b).T.astype(float)
try:
    blas.check_half()
except ConfigError:
    print("none")
    raise SystemExit
"""


def run_half(check, cache, **env):
    said = run(START + HALF + check, cache, **env).strip()
    if said == "none":
        pytest.skip("this processor has no AVX512_BF16")
    return said


def test_in_bfloat16_it_is_the_product_of_rounded_matrices(cache):
    """Of few and of many rows, cut or halved by rows and by columns; the bound of a sum."""
    check = """
for m in (1, 3, 4, 5, 40, 160, 161, 1300):
    for n, k in ((193, 577), (1024, 64), (96, 700), (256, 257), (5000, 17), (7, 500), (7, 5)):
        a = rng.standard_normal((m, k), dtype=np.float32)
        b = rng.standard_normal((n, k), dtype=np.float32)
        exact = rounded(a) @ kept(b).T
        most = 2**-24 * (k + 2) * (np.abs(rounded(a)) @ np.abs(kept(b)).T)
        found = half(a, b)
        assert (np.abs(found - exact) <= most).all(), (m, n, k)
        assert (np.abs(found - a.astype(float) @ b.T) > most).mean() > 0.5  # it did round
print("right")
"""
    assert run_half(check, cache, OPENBLAS_NUM_THREADS="2") == "right"


def test_weights_are_rounded_at_random_and_on_average_not_at_all(cache):
    """To one of two neighbours, by where they lie between them: each a bfloat16, half a step off.

    The mean over n of errors that lie within a step s has a standard error below s / sqrt(n) / 2.
    A small step of weights that lie half-way tips a part of them in proportion, and not all.
    """
    check = """
def is_half(x):
    return (rounded(x) == x).all()
b = np.concatenate([rng.standard_normal((300, 400)), 3e-5 * rng.standard_normal((100, 400))])
b = b.astype(np.float32)
found = kept(b)
step = 2.0 ** (np.floor(np.log2(np.abs(b.astype(float)))) - 7)
errors = (found - b) / step
assert is_half(found) and (np.abs(errors) < 1).all()
assert abs(errors.mean()) < 3 / 2 / np.sqrt(b.size) and errors.std() > 0.3
assert abs((errors * np.sign(b)).mean()) < 3 / 2 / np.sqrt(b.size)  # nor towards 0
np.testing.assert_array_equal(kept(rounded(b).astype(np.float32)), rounded(b))
np.testing.assert_array_equal(kept(b), found)

halfway = (rounded(b) + np.sign(b) * step / 2).astype(np.float32)
moved = (halfway + step / 100).astype(np.float32)
tipped = (kept(moved) != kept(halfway)).mean()
assert 0.005 < tipped < 0.015, tipped
print("right")
"""
    assert run_half(check, cache) == "right"


def test_bfloat16_ends_with_the_block_and_is_for_its_weights_alone(cache):
    check = """
a = mx.array(rng.standard_normal((64, 500), dtype=np.float32))
b, other = (mx.array(rng.standard_normal((512, 500), dtype=np.float32)) for _ in range(2))
def products():
    # By the weights, by others, by a part of them, transposed, added to something.
    found = [a @ b.T, a @ other.T, a @ b[:300].T, (b @ a.T).T, mx.addmm(other[:64, :1], a, b.T)]
    mx.eval(found)
    return [np.array(x) for x in found]
before = products()
try:
    with blas.half_products([np.asarray(b), np.zeros(3), np.eye(3)]):
        first, *others = products()
        assert (first != before[0]).any()
        for x, y in zip(others, before[1:]):
            np.testing.assert_array_equal(x, y)
        raise ValueError
except ValueError:
    pass
for x, y in zip(products(), before):
    np.testing.assert_array_equal(x, y)
print("equal")
"""
    assert run_half(check, cache) == "equal"


def test_a_row_in_bfloat16_does_not_depend_on_others_nor_on_threads(cache):
    check = """
b = rng.standard_normal((700, 333), dtype=np.float32)
a = rng.standard_normal((900, 333), dtype=np.float32)
whole = half(a, b)
for rows in (1, 2, 3, 7, 64, 600):
    np.testing.assert_array_equal(half(a[:rows], b), whole[:rows])
spoilt = a.copy()
spoilt[5] = np.nan
np.testing.assert_array_equal(np.delete(half(spoilt, b), 5, 0), np.delete(whole, 5, 0))
assert np.isnan(half(spoilt, b)[5]).all()
blas.limit_threads(1)
np.testing.assert_array_equal(half(a, b), whole)
print("equal")
"""
    assert run_half(check, cache, OPENBLAS_NUM_THREADS="2") == "equal"


def test_products_of_other_threads_go_on_while_weights_are_kept_and_forgotten(cache):
    check = """
from textenv.errors import ConfigError
a, b = (rng.standard_normal((size, 64)).astype("float32") for size in (40, 960))
def product():
    c = np.zeros((40, 960), np.float32)
    multiply(a, b, c, trans=(False, True))
    return c.tobytes()
try:
    blas.check_half()
except ConfigError:
    print("none")
    raise SystemExit
exact = product()
with blas.half_products([b]):
    rounded = product()
seen, over = [], threading.Event()
def work():
    while not over.is_set():
        seen.append(product())
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(300):
    with blas.half_products([b]):
        assert product() == rounded
    assert product() == exact
over.set()
for thread in threads:
    thread.join()
assert set(seen) == {exact, rounded}, len(set(seen))
print("right")
"""
    said = run(DIRECT + check, cache, OPENBLAS_NUM_THREADS="2").strip()
    if said == "none":
        pytest.skip("this processor has no AVX512_BF16")
    assert said == "right"


def test_a_processor_with_the_instructions_has_products_in_bfloat16(cache):
    """So that the tests of these products are not skipped for another reason."""
    version = subprocess.run(["gcc", "-dumpversion"], capture_output=True, text=True, check=True)
    flags = Path("/proc/cpuinfo").read_text().split()
    if "avx512_bf16" not in flags or int(version.stdout.split(".")[0]) < 11:
        pytest.skip("this processor, or compiler, has none")
    assert run(START + "blas.check_half(); print('there')", cache).strip() == "there"


def test_without_the_instructions_bfloat16_is_refused(cache):
    check = """
ctypes.c_int.in_dll(blas._shim, "textenv_has_half").value = 0
try:
    with blas.half_products([]):
        pass
except ConfigError as error:
    print(error)
"""
    said = run(START + check, cache)
    assert said.startswith("products in bfloat16 need a CPU with AVX512_BF16")


def test_what_it_is_for(cache):
    """Few rows and large matrices: elsewhere the bits are those of OpenBLAS."""
    check = """
def own(m, n, k):
    a = rng.standard_normal((m, k), dtype=np.float32)
    b = rng.standard_normal((n, k), dtype=np.float32)
    return bool((product(a, b, 16) != product(a, b, 0)).any())
print(own(64, 512, 500), own(161, 512, 500), own(64, 128, 500))
"""
    assert run(START + check, cache).strip() == "True False False"
