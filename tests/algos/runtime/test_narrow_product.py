"""Products with few rows, beside float64 and beside OpenBLAS, with each kind of registers."""

import platform
import sys

import pytest

from tests.algos.runtime.shared import LOAD, has_mlx_cpu, needs_openblas, run

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
