"""Rates of this machine, on a clock that each product moves."""

import pytest

from textenv.algos.bench import hardware
from textenv.algos.bench.workload import MODEL_SIZES


def test_the_products_are_those_of_the_models():
    products = hardware.shapes({"small": MODEL_SIZES["small"]})
    # 64 rows of a decode step, 2,048 of an update; 128 wide, 384 in between, 100 tokens.
    assert products == {
        "square": (1024, 1024, 1024),
        "small, decode, feed-forward": (64, 128, 384),
        "small, decode, head": (64, 128, 100),
        "small, update, feed-forward": (2048, 128, 384),
    }


def test_a_median_of_five_calls_after_one_that_warms_up(clock):
    took = [100.0, 1.0, 5.0, 2.0, 4.0, 3.0]
    assert hardware._median_seconds(lambda: clock(took.pop(0))) == 3 and not took


def test_short_calls_are_repeated_until_they_are_long_enough(clock):
    calls = []

    def compute():
        calls.append(None)
        clock(0.015625)

    assert hardware._median_seconds(compute) == 0.015625
    assert len(calls) == 1 + 13  # 13 of them are 0.203 seconds


def test_rates_by_hand(monkeypatch):
    """Of products that take half a second each, and of copies of 256 MiB that do."""
    monkeypatch.setattr(hardware, "_COPY", 2**20)
    monkeypatch.setattr(hardware, "SQUARE", (8, 8, 8))

    def half_a_second(compute):
        compute()
        return 0.5

    monkeypatch.setattr(hardware, "_median_seconds", half_a_second)
    products = {"square": (8, 8, 8), "flat": (2, 30, 5)}
    found = [hardware.mlx_rates(products, 0.0)]
    assert found[0]["gb_per_s"] == pytest.approx(2 * 2**20 / 0.5 / 1e9)  # read and written
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    found.append(hardware.torch_rates(products, 0.0))
    torch.set_num_threads(threads)
    for rates in found:
        assert rates["gflops"] == pytest.approx({"square": 1024 / 5e8, "flat": 600 / 5e8})
        assert rates["seconds"] == pytest.approx(0.5) and rates["memory_mb"] > 0
