"""Workers as actors of Ray: the same rollouts and gradients, also if actors are killed."""

from __future__ import annotations

import importlib.util
import os
import signal
import time
from functools import partial

import pytest

from tests.algos.rollouts.shared import (
    length_or_death,
    make_answerer,
    raise_value_error,
    talkative,
)
from tests.algos.shared import SUMS, make_env
from textenv.algos.rollouts.workers.ray_pool import connect
from textenv.algos.rollouts.workers.worker import (
    GradientItem,
    WorkerError,
    WorkerTraceback,
)
from textenv.errors import ConfigError

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray")


@pytest.fixture(scope="module", autouse=True)
def ray():
    """One Ray for all tests here; a pool that finds it leaves it running."""
    ray, is_own = connect(None, 2)
    assert is_own
    yield ray
    assert ray.is_initialized()
    ray.shutdown()


def pool_of(coordinator):
    return coordinator._workers._pool


@pytest.fixture(scope="module")
def undisturbed(coordinate):
    """Two rollouts of this process alone."""
    coordinator = coordinate(0)
    return [coordinator.collect(), coordinator.collect()]


@pytest.fixture(scope="module")
def by_two(coordinate):
    """A coordinator with two actors, and the two rollouts that it has collected."""
    coordinator = coordinate(2, backend="ray")
    return coordinator, [coordinator.collect(), coordinator.collect()]


def test_rollouts_are_those_of_one_process(by_two, undisturbed):
    coordinator, rollouts = by_two
    assert rollouts == undisturbed
    assert coordinator._workers.restarts == 0
    pids = {worker.pid for worker in pool_of(coordinator)._workers}
    assert len(pids) == 2 and os.getpid() not in pids


def test_ray_listens_on_this_machine_alone(ray):
    assert {node["NodeManagerAddress"] for node in ray.nodes()} == {"127.0.0.1"}
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_new_weights_reach_the_actors_and_stale_ones_are_refused(coordinate):
    import mlx.core as mx
    from mlx.utils import tree_map

    rollouts = []
    for settings in ({"num_workers": 0}, {"num_workers": 2, "backend": "ray"}):
        coordinator = coordinate(**settings)
        model = coordinator.policy.model
        model.update(tree_map(lambda w: 0.7 * w, model.parameters()))
        mx.eval(model.parameters())
        coordinator.policy_version = 3
        rollouts.append(coordinator.collect())
    assert rollouts[0] == rollouts[1] and {t.policy_version for t in rollouts[1]} == {3}
    with pytest.raises(WorkerError, match="version 1 came to a worker that has version 3"):
        pool_of(coordinator).run([GradientItem(1, [])])


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP])
def test_an_actor_that_is_killed_or_stopped_in_a_reward(
    coordinate, undisturbed, tmp_path, signum, capsys
):
    reward = partial(length_or_death, str(tmp_path / "flag"), signum)
    timeout = 3.0 if signum == signal.SIGSTOP else None
    create_env = partial(make_env, reward, SUMS)
    coordinator = coordinate(2, create_env, backend="ray", worker_timeout=timeout)
    before = {worker.pid for worker in pool_of(coordinator)._workers}
    assert [coordinator.collect(), coordinator.collect()] == undisturbed
    assert coordinator._workers.restarts >= 1
    lost = before - {worker.pid for worker in pool_of(coordinator)._workers}
    deadline = time.monotonic() + 20
    while any(_runs(pid) for pid in lost):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "it is started again, and its part is done again" in capsys.readouterr().err


def test_actors_that_die_in_between(coordinate, undisturbed):
    coordinator = coordinate(2, backend="ray")
    first = coordinator.collect()
    for worker in pool_of(coordinator)._workers:
        os.kill(worker.pid, signal.SIGKILL)
    assert [first, coordinator.collect()] == undisturbed
    assert coordinator._workers.restarts == 2


def test_what_a_reward_raises_reaches_the_caller(coordinate):
    # A lambda too: Ray sends functions themselves.
    coordinator = coordinate(2, lambda: make_env(raise_value_error, SUMS), backend="ray")
    with pytest.raises(ValueError, match=r"no reward for.*\(in worker process [01] ") as caught:
        coordinator.collect()
    assert isinstance(caught.value.__cause__, WorkerTraceback)
    assert "in raise_value_error" in str(caught.value.__cause__)
    with pytest.raises(WorkerError, match="make another coordinator"):
        coordinator.collect()


def test_what_actors_print_has_their_names(coordinate, capfd):
    create_env = partial(make_env, talkative, SUMS)
    coordinator = coordinate(2, create_env, max_steps=8, create=make_answerer, backend="ray")
    coordinator.collect()
    deadline, said = time.monotonic() + 20, ""
    while said.count("scoring") < 8:
        assert time.monotonic() < deadline, said
        time.sleep(0.1)
        captured = capfd.readouterr()
        said += captured.out + captured.err
    assert "(worker 0" in said and "(worker 1" in said


def test_an_address_where_nobody_answers_and_a_handler_that_stays(ray):
    ray.shutdown()
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, _handler)
    try:
        with pytest.raises(ConfigError, match=r"ray_address='127\.0\.0\.1:1': no cluster"):
            connect("127.0.0.1:1", 2)
        assert not ray.is_initialized()
        connect(None, 2)
        assert signal.getsignal(signal.SIGTERM) is _handler
    finally:
        signal.signal(signal.SIGTERM, before)


def _handler(*_):
    pass


def _runs(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] not in "ZX"
