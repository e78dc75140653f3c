"""How a rollout is cut into items for workers."""

from __future__ import annotations

import types
from functools import partial

import pytest

from tests.algos.rollouts.shared import children, make_answerer, make_control_policy, make_sums
from tests.algos.shared import make_policy
from textenv.algos import RolloutCoordinator
from textenv.algos.rollouts.worker_runner import cut
from textenv.algos.strategies import Start


@pytest.mark.parametrize("groups", [1, 2, 3, 10, 33, 100])
@pytest.mark.parametrize("size", [1, 4, 16, 200])
def test_the_cut(groups, size):
    starts = [Start(i, i, None, j) for i in range(groups) for j in range(size)]
    items = cut(starts, size)
    assert [start for item in items for start in item] == starts
    assert all(len(item) % size == 0 for item in items)
    held = [len(item) // size for item in items]
    assert max(held) - min(held) <= 1 and len(items) >= min(groups, 2)
    assert max(map(len, items)) <= max(256, size)
    assert len(items) <= max(2, len(starts) // 64)


def test_factories_that_cannot_be_sent(tiny_folder):
    before = children()
    policy = make_policy(tiny_folder, top_p=0.9)
    called = []
    for create_env, create_policy_, name in [
        (lambda: called.append(1), partial(make_policy, "tiny-lm"), "create_env"),
        (make_sums, lambda: policy, "create_policy"),
        (make_sums, partial(make_policy, types.SimpleNamespace(f=lambda: 0)), "create_policy"),
    ]:
        with pytest.raises(ValueError, match=rf"num_workers=2 sends {name} .*functools.partial"):
            RolloutCoordinator(create_env, create_policy_, num_workers=2, max_steps=8)
    assert children() == before and not called


@pytest.mark.parametrize("value", [-1, 1.5, True, "2"])
def test_bad_numbers_of_workers(value):
    with pytest.raises(ValueError, match="num_workers must be an integer >= 0"):
        RolloutCoordinator(make_sums, make_control_policy, num_workers=value)


def test_where_workers_are_and_how_long_they_may_take():
    for settings, message in [
        ({"backend": "slurm"}, "unknown backend 'slurm'"),
        ({"ray_address": "auto"}, "ray_address='auto' needs backend='ray'"),
        ({"worker_timeout": 0.0}, r"worker_timeout must be from 0\.1 to 1e\+06 seconds, got 0\.0"),
        ({"worker_timeout": 1e9}, "worker_timeout must be from"),
    ]:
        with pytest.raises(ValueError, match=message):
            RolloutCoordinator(
                make_sums, make_answerer, num_workers=1, max_steps=8, **settings
            ).close()
