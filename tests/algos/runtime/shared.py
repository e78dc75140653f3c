"""Programs in processes of their own, so that the order of their imports is known."""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import textwrap

import pytest


def has_mlx_cpu():
    try:
        importlib.metadata.version("mlx-cpu")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


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
