"""Measures how fast this machine multiplies matrices and copies memory, the limits of the rest."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from textenv.algos.bench.process import cores
from textenv.algos.bench.workload import ModelSize

SQUARE = (1024, 1024, 1024)
_DECODED, _SCORED = 64, 2048  # rows in a decode step and in an update
_COPY = 2**28  # bytes
_LEAST = 0.2  # seconds for which a product is repeated


def shapes(sizes: dict[str, ModelSize]) -> dict[str, tuple[int, int, int]]:
    """The products (m, k) x (k, n) to measure, by name."""
    found = {"square": SQUARE}
    for name, size in sizes.items():
        found[f"{name}, decode, feed-forward"] = (_DECODED, size.hidden, size.intermediate)
        found[f"{name}, decode, head"] = (_DECODED, size.hidden, size.vocabulary)
        found[f"{name}, update, feed-forward"] = (_SCORED, size.hidden, size.intermediate)
    return found


def mlx_rates(products: dict[str, tuple[int, int, int]], started: float) -> dict[str, Any]:
    """Measure the rates of MLX's matrix products, and of a copy."""
    from textenv.algos.runtime import backend

    backend.prepare()
    import mlx.core as mx

    from textenv.algos.bench.process import mlx_facts

    def rate(m: int, k: int, n: int) -> float:
        a, b = mx.random.normal((m, k)), mx.random.normal((k, n))
        mx.eval(a, b)

        def multiply() -> None:
            mx.eval(a @ b)
            mx.synchronize()

        return 2 * m * k * n / _median_seconds(multiply) / 1e9

    gflops = {name: rate(*shape) for name, shape in products.items()}
    if mx.default_device() == mx.cpu:
        bandwidth = _copy_rate()
    else:
        source = mx.zeros((_COPY // 4,))
        mx.eval(source)

        def copy() -> None:
            mx.eval(source + 1)
            mx.synchronize()

        bandwidth = 2 * _COPY / _median_seconds(copy) / 1e9
    seconds = 2 * float(np.prod(SQUARE)) / gflops["square"] / 1e9
    return mlx_facts() | {"seconds": seconds, "gflops": gflops, "gb_per_s": bandwidth}


def torch_rates(products: dict[str, tuple[int, int, int]], started: float) -> dict[str, Any]:
    """Measure the rates of torch's matrix products."""
    import torch

    from textenv.algos.bench.process import torch_facts

    torch.set_num_threads(cores())
    mps = torch.backends.mps.is_available()
    device = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"

    def rate(m: int, k: int, n: int) -> float:
        a, b = torch.randn(m, k, device=device), torch.randn(k, n, device=device)

        def multiply() -> None:
            torch.mm(a, b)
            if device != "cpu":
                getattr(torch, device).synchronize()

        return 2 * m * k * n / _median_seconds(multiply) / 1e9

    gflops = {name: rate(*shape) for name, shape in products.items()}
    seconds = 2 * float(np.prod(SQUARE)) / gflops["square"] / 1e9
    return torch_facts() | {"seconds": seconds, "gflops": gflops}


def _copy_rate() -> float:
    """Gigabytes read and written a second, by as many threads as there are cores."""
    count = cores()
    source = np.ones(_COPY // 8)
    target = np.empty_like(source)
    parts = list(zip(np.array_split(target, count), np.array_split(source, count)))
    with ThreadPoolExecutor(count) as pool:
        seconds = _median_seconds(lambda: list(pool.map(lambda part: np.copyto(*part), parts)))
    return 2 * _COPY / seconds / 1e9


def _median_seconds(compute: Callable[[], Any]) -> float:
    """Median seconds of a call, repeated at least five times and for `_LEAST` seconds.

    A first call is not counted.
    """
    compute()
    seconds: list[float] = []
    while len(seconds) < 5 or sum(seconds) < _LEAST:
        start = time.perf_counter()
        compute()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
