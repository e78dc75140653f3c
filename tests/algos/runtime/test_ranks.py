"""What one rank does by itself; that of several is in tests/algos/trainers/test_ranks.py."""

import itertools
import time
from types import SimpleNamespace

import numpy as np
import pytest

from textenv.algos.runtime import ranks
from textenv.algos.runtime.ranks import RankError, Ranks


def of(rank, size):
    """A rank of so many, which can exchange nothing."""
    return Ranks(SimpleNamespace(rank=lambda: rank, size=lambda: size))


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [0, 1, 5, 14])
def test_shares_are_even_and_hold_each_once(size, count):
    shares = [list(range(count))[of(rank, size).share(count)] for rank in range(size)]
    assert list(itertools.chain(*shares)) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone_every_exchange_gives_what_it_was_given():
    alone = Ranks()
    arrays = {"a": np.arange(3)}
    assert (alone.rank, alone.size, alone.is_first) == (0, 1, True)
    assert alone.gather({"x": 1}) == [{"x": 1}]
    assert alone.from_first([2]) == [2]
    assert alone.any(True, False) == [True, False]
    assert alone.arrays_from_first(arrays) == arrays
    assert alone.sum(arrays) is arrays
    alone.check_equal({"seed": 0})


def test_after_a_failure_nothing_is_exchanged_any_more(monkeypatch):
    import mlx.core as mx

    calls = []

    def fail(array, group):
        calls.append(array)
        raise RuntimeError("[ring] connection to a peer was lost")

    monkeypatch.setattr(mx.distributed, "all_sum", fail)
    one = of(1, 2)
    for _ in range(2):
        with pytest.raises(RankError, match=r"rank 1 of 2 ends too.*a peer was lost") as raised:
            one.sum({"a": mx.ones(2)})
    assert len(calls) == 1 and raised.value.exit_code == 75


def test_a_long_exchange_is_reported(monkeypatch, capfd):
    monkeypatch.setattr(ranks, "_WAITING", 0.05)
    one = of(0, 2)
    with one._exchange():
        time.sleep(0.14)
    said = capfd.readouterr().err
    assert said.startswith("rank 0 has waited 0.05 s for the other ranks\n"), said
    assert said.count("\n") in (1, 2)
    time.sleep(0.08)
    assert capfd.readouterr().err == ""


def test_what_differs_is_named_with_both_values(monkeypatch):
    one = of(0, 2)
    monkeypatch.setattr(one, "gather", lambda value: [value, {"seed": 0, "extra": 1}])
    with pytest.raises(RankError, match="same extra: rank 0 has None, rank 1 1"):
        one.check_equal({"seed": 0})
