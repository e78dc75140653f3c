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


HALF = """
def half(a, b):
    with blas.half_products():
        return product(a, b, 16)
try:
    blas.check_half()
except Exception:
    print("none")
    raise SystemExit
"""


def run_half(check, cache, **env):
    said = run(START + HALF + check, cache, **env).strip()
    if said == "none":
        pytest.skip("this processor has no AVX512_BF16")
    return said


def test_in_bfloat16_it_is_the_product_of_rounded_matrices(cache):
    """Of few and of many rows, cut by rows and by columns; again with the bound of a sum."""
    check = """
def rounded(x):
    return np.array(mx.array(x).astype(mx.bfloat16).astype(mx.float32)).astype(float)
for m in (1, 3, 4, 5, 160, 161, 1300):
    for n, k in ((193, 577), (1024, 64), (96, 700), (256, 257), (5000, 17)):
        a = rng.standard_normal((m, k), dtype=np.float32)
        b = rng.standard_normal((n, k), dtype=np.float32)
        exact = rounded(a) @ rounded(b).T
        most = 2**-24 * (k + 2) * (np.abs(rounded(a)) @ np.abs(rounded(b)).T)
        found = half(a, b)
        assert (np.abs(found - exact) <= most).all(), (m, n, k)
        assert (np.abs(found - a.astype(float) @ b.T) > most).mean() > 0.5  # it did round
print("right")
"""
    assert run_half(check, cache, OPENBLAS_NUM_THREADS="2") == "right"


def test_bfloat16_ends_with_the_block_and_leaves_other_products_alone(cache):
    check = """
a = rng.standard_normal((64, 500), dtype=np.float32)
b = rng.standard_normal((512, 500), dtype=np.float32)
before = product(a, b, 16)
try:
    with blas.half_products():
        raise ValueError
except ValueError:
    pass
np.testing.assert_array_equal(product(a, b, 16), before)
with blas.half_products():
    with blas.half_products():
        pass
    assert (product(a, b, 16) != before).any()  # still in the outer block
    other = np.array(mx.array(a.T) @ mx.array(a))  # A^T B, as in a gradient
    few = np.array(mx.array(a) @ mx.array(b[:100]).T)  # a matrix that a cache holds
np.testing.assert_array_equal(np.array(mx.array(a.T) @ mx.array(a)), other)
np.testing.assert_array_equal(np.array(mx.array(a) @ mx.array(b[:100]).T), few)
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


def test_without_the_instructions_bfloat16_is_refused(cache):
    check = """
ctypes.c_int.in_dll(blas._shim, "textenv_has_half").value = 0
try:
    with blas.half_products():
        pass
except Exception as error:
    print(type(error).__name__, error)
"""
    said = run(START + check, cache)
    assert said.startswith("ConfigError products in bfloat16 need a CPU with AVX512_BF16")


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
