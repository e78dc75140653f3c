"""A fast BLAS for MLX on Linux CPUs, put in place before MLX is imported.

The ``mlx-cpu`` wheel carries the Netlib reference BLAS, which multiplies matrices some 30 times
slower than OpenBLAS. ``load`` puts OpenBLAS (from the package ``scipy-openblas32``) in its place:
``blas_shim.c``, compiled once into the user's cache, defines the three functions that MLX calls,
cuts large float32 products up for threads of its own, computes those with few rows itself on x86
(``narrow_product.h``), and leaves the others to OpenBLAS. If this is not possible, MLX works as
before, slowly, and a warning says why.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from textenv.algos.runtime.private import cache_folder, is_private
from textenv.errors import ConfigError, how_to_install

if TYPE_CHECKING:
    import numpy as np

FUNCTIONS = ("sgemm", "dgemm", "cgemm")  # what MLX calls, and what blas_shim.c defines
COMPILERS = ("cc", "gcc", "g++", "clang")
FLAGS = ("-O2", "-shared", "-fPIC", "-pthread")
DEFAULT_THREADS = 16  # at most, unless OPENBLAS_NUM_THREADS asks for more
MAX_THREADS = 64  # what scipy-openblas32 is built for: more threads may exhaust its buffers

AVX512 = frozenset(("avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"))  # SkylakeX's

_SOURCE = Path(__file__).with_name("blas_shim.c")
_INCLUDED = Path(__file__).with_name("narrow_product.h")
_status: BlasStatus | None = None  # what `load` returned; None before its first call
_shim: ctypes.CDLL | None = None  # the library that is in place; None without one
_limit = MAX_THREADS  # set by limit_threads


@dataclass(frozen=True)
class BlasStatus:
    """Which BLAS multiplies MLX's matrices on the CPU.

    Attributes:
        name: ``openblas`` (put in place here), ``bundled`` (the slow one of the mlx-cpu wheel),
            ``accelerate`` (macOS), or ``own`` (whatever MLX has: it was left as it is).
        detail: The library in use and its number of threads, or why OpenBLAS is not in use.
    """

    name: str
    detail: str


class Products(NamedTuple):
    """The float32 products of a process, or of a part of its time."""

    operations: int
    """Floating-point operations: 2 for each multiplication."""
    seconds: float
    """How long MLX waited for them."""

    def since(self, earlier: Products) -> Products:
        """What was added to an earlier count."""
        return Products(self.operations - earlier.operations, self.seconds - earlier.seconds)


def load() -> BlasStatus:
    """Put OpenBLAS in the place of MLX's bundled BLAS; call it before MLX is imported.

    Only the first call does anything. If something is missing it does not raise: it warns once,
    and MLX keeps its own BLAS. ``TEXTENV_BLAS=off`` in the environment turns it off.

    Large float32 products use as many threads as ``OPENBLAS_NUM_THREADS`` says. If it is not set,
    there are as many as this process has CPUs, up to 16. That number may change the last bits of a
    product, but nothing else that the machine does will.

    OpenBLAS chooses its kernels by the processor, unless ``OPENBLAS_CORETYPE`` names others. It
    takes AMD's Zen 5 for a processor without AVX-512, and is half as fast: this function corrects
    that.

    Returns:
        What is in force from now on.
    """
    global _status
    if _status is None:
        try:
            _status = _load()
        except _NotLoadedError as error:
            _status = BlasStatus("bundled", str(error))
            warnings.warn(
                f"MLX multiplies matrices with its own slow BLAS: {error}, or set TEXTENV_BLAS=off "
                "to silence this.",
                RuntimeWarning,
                stacklevel=2,
            )
    return _status


def status() -> BlasStatus:
    """The BLAS that is in force; nothing is changed."""
    return _status or BlasStatus("own", "load() has not been called")


def count_products() -> Products | None:
    """Count the float32 products so far; None if MLX computes them elsewhere than by `load`.

    MLX is lazy: evaluate and synchronize what is to be in the count.
    """
    if _shim is None:
        return None
    operations, nanoseconds = (
        ctypes.c_ulonglong.in_dll(_shim, f"textenv_{name}").value
        for name in ("operations", "nanoseconds")
    )
    return Products(operations, nanoseconds / 1e9)


def count_threads() -> int:
    """The number of threads that large products are cut for; see `load`."""
    asked = os.environ.get("OPENBLAS_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:  # OpenBLAS, too, ignores what is not a number
        return min(int(asked), MAX_THREADS)
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(cpus, DEFAULT_THREADS)


def limit_threads(count: int) -> None:
    """Let fewer threads multiply from now on; the results stay the same to the last bit.

    For a process that shares its CPUs with others like it.

    Args:
        count: The most threads that may work at once.
    """
    global _limit
    _limit = count
    if _shim is not None:
        ctypes.c_int.in_dll(_shim, "textenv_limit").value = count


def has_half() -> bool:
    """Whether `half_products` can do what it says."""
    return _shim is not None and bool(ctypes.c_int.in_dll(_shim, "textenv_has_half").value)


def check_half() -> None:
    """Check that `half_products` can do what it says.

    Raises:
        ConfigError: if this processor has no such instructions, or OpenBLAS is not in place.
    """
    if not has_half():
        raise ConfigError(
            "products in bfloat16 need a CPU with AVX512_BF16 instructions, the extra textenv[cpu] "
            "and GCC 11 or later to build with: use float32"
        )


@contextmanager
def half_products(weights: Iterable[np.ndarray]) -> Iterator[None]:
    """A block in which MLX multiplies by these weights in bfloat16, which is up to twice as fast.

    Products ``x @ w.T`` round x to the nearest bfloat16, and use a copy of the weights w in which
    each is rounded up or down at random, with the same randomness each time; see ``blas_shim.c``.
    Sums stay float32. The copies take half the memory of the weights. What is lazy is computed
    where it is evaluated: evaluate what belongs to the block before it ends. There is one such
    block at a time.

    Args:
        weights: arrays that share MLX's memory, and do not change in the block. Only float32
            matrices that lie by rows are used.

    Raises:
        ConfigError: see `check_half`.
        MemoryError: if there is no room for the copies.
    """
    check_half()
    assert _shim is not None
    used = [
        w for w in weights if w.ndim == 2 and w.dtype.name == "float32" and w.flags.c_contiguous
    ]
    count = len(used)
    if not _shim.textenv_keep(
        count,
        (ctypes.c_void_p * count)(*(w.ctypes.data for w in used)),
        (ctypes.c_int * count)(*(w.shape[0] for w in used)),
        (ctypes.c_int * count)(*(w.shape[1] for w in used)),
    ):
        raise MemoryError("there is no room for the weights in bfloat16: use float32")
    try:
        yield
    finally:
        _shim.textenv_forget()


def measure_gflops(size: int = 1024, repeats: int = 5) -> float:
    """Measure how fast MLX multiplies two float32 matrices on its default device.

    Args:
        size: The matrices are ``size`` x ``size``.
        repeats: How many products are timed, after one that is not.

    Returns:
        The median, in billions of floating-point operations per second.
    """
    import mlx.core as mx

    a = mx.random.normal((size, size))
    b = mx.random.normal((size, size))
    mx.eval(a, b, a @ b)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        mx.eval(a @ b)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds) / 1e9


class _NotLoadedError(Exception):
    """OpenBLAS could not be put in place; the message ends with what the user can do."""


def _load() -> BlasStatus:
    if sys.platform == "darwin":
        return BlasStatus("accelerate", "MLX on macOS uses Apple's Accelerate")
    if sys.platform != "linux" or not _is_installed("mlx-cpu"):
        return BlasStatus("own", "left as it is: only the Linux wheel mlx-cpu has the slow BLAS")
    if os.environ.get("TEXTENV_BLAS", "").lower() == "off":
        return BlasStatus("bundled", "turned off by TEXTENV_BLAS=off")
    if "mlx.core" in sys.modules:
        raise _NotLoadedError("mlx was imported first; import textenv.algos before mlx")
    library = _find_openblas()
    threads = count_threads()
    _bind(_build_shim(), library, threads)
    return BlasStatus("openblas", f"{library}, {threads} thread{'s' if threads > 1 else ''}")


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _find_openblas() -> Path:
    # Not imported: the package would make the whole of OpenBLAS global.
    spec = importlib.util.find_spec("scipy_openblas32")
    for folder in (spec and spec.submodule_search_locations) or ():
        for library in sorted(Path(folder, "lib").glob("libscipy_openblas*.so*")):
            return library
    raise _NotLoadedError(f"scipy-openblas32 is not installed: {how_to_install('cpu')}")


def _build_shim() -> Path:
    """Return the compiled shim, building it if this source was not built on this machine before."""
    # OpenBLAS's path and version are not compiled in (see _bind). The C library's version is: a
    # shim built with a newer one does not load, and machines may share a home.
    sources = _SOURCE.read_bytes() + _INCLUDED.read_bytes()
    key = (sources, FLAGS, platform.libc_ver(), "with its hash")
    digest = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
    cache = _cache()
    shim = cache / f"blas_shim-{platform.machine()}-{digest}.so"
    if shim.exists():
        _check_shim(shim)
        return shim

    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise _NotLoadedError(
            f"no C compiler ({', '.join(COMPILERS)}) is on the PATH; install gcc (Debian, Ubuntu: "
            "apt install g++)"
        )
    try:
        # In the same folder, so that os.replace is atomic and no process finds half a file.
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            built = Path(folder, shim.name)
            result = subprocess.run(
                [compiler, *FLAGS, "-o", str(built), str(_SOURCE)],
                capture_output=True,
                text=True,
                env={**os.environ, "LC_ALL": "C"},
            )
            if result.returncode != 0:
                lines = result.stderr.splitlines() or [f"exit status {result.returncode}"]
                error = next((line for line in lines if "error" in line), lines[0])
                raise _NotLoadedError(f"{compiler} failed: {error}; install another compiler")
            with built.open("ab") as file:  # loaders do not read what follows the library
                file.write(hashlib.sha256(built.read_bytes()).digest())
            built.chmod(0o600)
            os.replace(built, shim)
    except OSError as error:
        raise _cannot_build(str(cache), error) from error
    return shim


def _cache() -> Path:
    try:
        return cache_folder()
    except OSError as error:
        raise _cannot_build(str(error.filename), error) from error


def _cannot_build(place: str, error: OSError) -> _NotLoadedError:
    return _NotLoadedError(
        f"the shim could not be built in {place} ({error}); set XDG_CACHE_HOME to a folder of your "
        "own that can be written"
    )


def _check_shim(shim: Path) -> None:
    """Check that a shim is ours, and as it was built: its last bytes are a hash of the others."""
    try:
        content = shim.read_bytes()
        right = is_private(shim) and content[-32:] == hashlib.sha256(content[:-32]).digest()
    except OSError as error:
        raise _NotLoadedError(f"{shim} cannot be read ({error}); delete {shim}") from error
    if not right:
        raise _NotLoadedError(f"another hand has changed the shim; delete {shim}")


def _cpu_info() -> str:
    """What ``/proc/cpuinfo`` says of the first processor; empty if it cannot be read."""
    try:
        return Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return ""


@contextmanager
def _kernels_for(cpu_info: str) -> Iterator[None]:
    """Let an OpenBLAS that is loaded in this block use AVX-512 on AMD processors that have it.

    Releases without the fix of this issue do not know Zen 5: https://github.com/OpenMathLib/OpenBLAS/issues/6029
    """
    flags = next((x.split() for x in cpu_info.splitlines() if x.startswith("flags")), [])
    is_amd = "AuthenticAMD" in cpu_info
    if not is_amd or not AVX512.issubset(flags) or "OPENBLAS_CORETYPE" in os.environ:
        yield
        return
    os.environ["OPENBLAS_CORETYPE"] = "Cooperlake" if "avx512_bf16" in flags else "SkylakeX"
    try:
        yield
    finally:
        del os.environ["OPENBLAS_CORETYPE"]


def _bind(shim: Path, library: Path, threads: int) -> None:
    """Connect the shim's functions to those of OpenBLAS, then let MLX find them."""
    global _shim
    try:
        with _kernels_for(_cpu_info()):
            openblas = ctypes.CDLL(str(library))  # local: only the shim becomes global
        forward = ctypes.CDLL(str(shim))
        for name in FUNCTIONS:
            target = ctypes.cast(getattr(openblas, f"scipy_cblas_{name}"), ctypes.c_void_p)
            ctypes.c_void_p.in_dll(forward, f"textenv_{name}").value = target.value
        # OpenBLAS's threads wait for one another in a busy loop: two of them on two cores made the
        # training step of a small model 10 to 30 times as slow beside one other busy process. So
        # OpenBLAS gets one, and the shim's threads, which sleep, share the work.
        openblas.scipy_openblas_set_num_threads(1)
        ctypes.c_int.in_dll(forward, "textenv_threads").value = threads
        ctypes.c_int.in_dll(forward, "textenv_limit").value = _limit
        # Global only now that no pointer is null: opening it again promotes the same library.
        _shim = ctypes.CDLL(str(shim), mode=ctypes.RTLD_GLOBAL)
    except (OSError, AttributeError, ValueError) as error:  # a library, or a function in it
        raise _NotLoadedError(
            f"{error}; reinstall scipy-openblas32, and delete {shim} if it is the one at fault"
        ) from error
