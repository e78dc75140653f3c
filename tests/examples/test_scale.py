"""The simulation of many machines, against numbers worked by hand."""

from dataclasses import replace

import numpy as np
import pytest


@pytest.fixture(scope="module")
def scale(example):
    """The script as a module."""
    return example("benchmarks/scale")


@pytest.fixture
def rates(scale):
    """A machine of 1 GFLOP/s and 1 GB/s that reaches both."""
    return scale.Rates(gflops=1.0, gbytes=1.0, sampling=1.0, update=1.0, packing=1e9)


@pytest.fixture
def job(scale):
    """A million weights; with 10 Gbit/s they are sent in 3.2 ms."""
    return scale.Job(weights=1e6, workers=1, ahead=0, completions=8, group=8, prompt=100)


def test_rates_by_hand(scale, rates, job):
    assert scale.decode_seconds(rates, job, 1) == pytest.approx(4e-3)  # reads 4 MB
    assert scale.decode_seconds(rates, job, 8) == pytest.approx(16e-3)  # 16 MFLOP
    lengths = np.array([3, 1])
    prompt = 2e6 * 2 / 8 * 100 / 1e9
    steps = 1 * 4e-3 + 2 * 4e-3  # two rows are 4 MFLOP, so reading takes as long
    assert scale.item_seconds(rates, job, lengths) == pytest.approx(prompt + steps)
    assert scale.update_seconds(rates, job, 1000) == pytest.approx(6.0)
    two = replace(job, learners=2)
    assert scale.update_seconds(rates, two, 1000) == pytest.approx(3.0 + 4e6 / 1.25e9)
    assert scale.send_seconds(job) == pytest.approx(4e6 / 1.25e9)


def test_one_worker_in_step_takes_the_sum_and_ahead_the_longer_of_both(scale, rates, job):
    fixed = replace(job, mean_length=1e9, longest=10)  # each completion has ten tokens
    play = scale.item_seconds(rates, fixed, np.full(8, 10))
    train = scale.update_seconds(rates, fixed, 80 + 100)
    send = scale.send_seconds(fixed)
    in_step = scale.simulate(rates, fixed)
    assert in_step.step == pytest.approx(play + train + send)
    assert in_step.staleness == 0
    ahead = scale.simulate(rates, replace(fixed, ahead=1))
    assert ahead.step == pytest.approx(max(play + send, train))
    assert ahead.staleness == 1
    alone = scale.simulate_ranks(rates, fixed)
    assert alone.step == pytest.approx(play + train)
    assert alone.tokens_per_second == pytest.approx(80 / (play + train))


def test_more_machines_never_make_ranks_slower_until_groups_run_out(scale, rates, job):
    many = replace(job, completions=64, gbits=float("inf"))
    found = [scale.simulate_ranks(rates, replace(many, workers=w)) for w in (1, 2, 4, 8)]
    speeds = [each.tokens_per_second for each in found]
    assert speeds == sorted(speeds) and speeds[3] < 8 * speeds[0]


def test_staleness_stays_in_its_bound(scale, rates, job):
    for workers in (1, 3, 16):
        for ahead in (0, 1, 2):
            one = replace(job, completions=64, workers=workers, ahead=ahead)
            assert 0 <= scale.simulate(rates, one).staleness <= ahead
