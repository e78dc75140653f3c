"""Worker processes: what is raised in them, how they die, and that none is left behind."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import gymnasium as gym
import pytest

from tests.algos.rollouts.shared import (
    GROUPS_OF_4,
    children,
    exit_at_once,
    fails_at,
    length_or_death,
    length_or_sleep,
    make_answerer,
    make_control_policy,
    make_mortal_policy,
    make_policy_that,
    make_sums,
    raise_own_error,
    raise_value_error,
    talkative,
)
from tests.algos.shared import SUMS, make_env, make_policy
from textenv.algos import RolloutCoordinator, create_strategy
from textenv.algos.rollouts.metrics import rollout_metrics
from textenv.algos.rollouts.workers.worker import WorkerError, WorkerTraceback
from textenv.errors import RewardError


def pool_of(coordinator):
    return coordinator._workers._pool


def gone(pids):
    """Wait until these processes are gone."""
    deadline = time.monotonic() + 30  # far from the hour that a reward takes
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return True


# --- what is raised and printed -----------------------------------------------------------------


def test_what_a_reward_raises_reaches_the_caller(coordinate):
    coordinator = coordinate(2, partial(make_env, raise_value_error, SUMS))
    with pytest.raises(ValueError, match=r"no reward for.*\(in worker process [01] ") as caught:
        coordinator.collect()
    assert isinstance(caught.value.__cause__, WorkerTraceback)
    assert "in raise_value_error" in str(caught.value.__cause__)
    assert caught.value.details["prompt"] in SUMS
    assert not {p.pid for p in children()} & {w.process.pid for w in pool_of(coordinator)._workers}
    with pytest.raises(WorkerError, match="make another coordinator"):
        coordinator.collect()


def test_an_exception_that_cannot_be_sent_arrives_as_text():
    with pytest.raises(WorkerError, match=r"(?s)raise_own_error.*OwnError: 1\+1= 3"):
        create = partial(make_policy_that, raise_own_error)
        RolloutCoordinator(make_sums, create, GROUPS_OF_4, 1, 8)


def test_what_workers_print_has_their_names(coordinate, capsys):
    coordinator = coordinate(
        2, partial(make_env, talkative, SUMS), max_steps=8, create=make_answerer
    )
    coordinator.collect()
    coordinator.close()  # which waits for the last line
    out, err = capsys.readouterr()
    lines = err.splitlines()
    said = [line.split("] ", 1)[1] for line in lines]
    assert not out
    assert {line.split("]")[0] for line in lines} == {"[worker 0", "[worker 1"}
    assert said.count("half a line and its end") == 8
    assert sum(line.startswith("scoring ") for line in said) == 8 == len(said) - 8


# --- how they die -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(coordinate):
    """Two rollouts of this process alone."""
    coordinator = coordinate(0)
    return [coordinator.collect(), coordinator.collect()]


def test_workers_that_die_in_between_are_started_again(coordinate, undisturbed, capsys):
    coordinator = coordinate(2)
    first = coordinator.collect()
    for worker in list(pool_of(coordinator)._workers):
        worker.process.kill()
        worker.process.join()
    assert [first, coordinator.collect()] == undisturbed
    assert pool_of(coordinator).restarts == 2
    assert len(children()) >= 2
    assert re.search(
        r"\[worker 1\] \(pid \d+\) was killed by signal 9; it is started again",
        capsys.readouterr().err,
    )


def test_a_worker_that_is_killed_while_it_generates(coordinate, undisturbed, tiny_folder, tmp_path):
    create = partial(make_mortal_policy, str(tiny_folder), str(tmp_path / "flag"), top_p=0.9)
    coordinator = coordinate(2, create=create)
    assert [coordinator.collect(), coordinator.collect()] == undisturbed
    assert pool_of(coordinator).restarts == 1


@pytest.mark.parametrize("way", ["kill", "stop", "sleep"])
def test_a_worker_that_ends_or_hangs_in_a_reward(coordinate, undisturbed, tmp_path, way, capsys):
    flag = str(tmp_path / "flag")
    reward = {
        "kill": partial(length_or_death, flag, signal.SIGKILL),
        "stop": partial(length_or_death, flag, signal.SIGSTOP),
        "sleep": partial(length_or_sleep, flag),
    }[way]
    coordinator = coordinate(2, partial(make_env, reward, SUMS), worker_timeout=2.0)
    before = {w.process.pid for w in pool_of(coordinator)._workers}
    assert coordinator.collect() == undisturbed[0]
    assert pool_of(coordinator).restarts >= 1
    after = {w.process.pid for w in pool_of(coordinator)._workers}
    assert before != after and gone(before - after)
    said = capsys.readouterr().err
    if way == "kill":
        assert "was killed by signal 9; it is started again, and its part is done again" in said
    else:
        assert "did not answer within 2 s (worker_timeout); it is started again" in said
    # What hangs is shown; a stopped process cannot say anything.
    assert ("in length_or_sleep" in said) == (way == "sleep")


def test_a_part_that_ends_every_worker_is_an_error(coordinate, tiny_folder):
    create = partial(make_mortal_policy, str(tiny_folder), None)
    coordinator = coordinate(2, create=create)
    with pytest.raises(WorkerError, match=r"one part of the rollout ended 3 workers: .*signal 9"):
        coordinator.collect()
    assert not {p.pid for p in children()} & {w.process.pid for w in pool_of(coordinator)._workers}


@pytest.mark.parametrize("how", ["raise", "nan", "kill", "hang"])
def test_a_reward_that_always_fails_at_one_prompt(coordinate, how):
    """It is skipped, or has the reward that was asked for; by default it is an error."""
    create_env = partial(make_env, partial(fails_at, how, SUMS[3]), SUMS)
    timeout = 1.0 if how == "hang" else 20.0

    def collect(on_reward_error):
        strategy = create_strategy("grpo", num_generations=1 if how == "hang" else 2)
        coordinator = coordinate(
            2,
            create_env,
            strategy,
            10 * strategy.num_generations,
            make_answerer,
            on_reward_error=on_reward_error,
            worker_timeout=timeout,
        )
        try:
            return coordinator.collect()
        finally:
            coordinator.close()

    found = collect(-2.0)
    assert [t.rewards[0] for t in found] == [-2.0 if t.prompt == SUMS[3] else 1.0 for t in found]
    assert {t.prompt for t in found} == set(SUMS)
    assert rollout_metrics(found.played)["reward_errors"] == len(found) / 10
    if how == "hang":
        return  # the rest is the same, and each worker costs a second
    found = collect("skip")
    assert len(found) == 18 and {t.prompt for t in found} == {*SUMS} - {SUMS[3]}
    assert rollout_metrics(found.played)["reward_errors"] == 2.0
    with pytest.raises(RewardError) as caught:
        collect("fail")
    assert caught.value.details["prompt"] == SUMS[3]
    assert caught.value.details["completion"] == "42"
    expected = {
        "raise": "no reward here",
        "nan": "returned nan",
        "kill": r"ended two workers: each ended with code 3 while it scored the completion '42'",
    }
    assert re.search(expected[how], str(caught.value))


def test_a_worker_that_does_not_start():
    with pytest.raises(WorkerError, match=r"ended with code 7 as it started.*__main__"):
        RolloutCoordinator(make_sums, partial(make_policy_that, exit_at_once), GROUPS_OF_4, 1, 8)


def test_the_episodes_of_control_are_lost_with_a_worker():
    coordinator = RolloutCoordinator(
        partial(gym.make, "Pendulum-v1"), make_control_policy, "ppo", 2, 40
    )
    coordinator.collect()
    victim = pool_of(coordinator)._workers[1].process
    victim.kill()
    victim.join()
    with pytest.raises(WorkerError, match=r"worker process 1 .*signal 9, and the episodes"):
        coordinator.collect()
    assert pool_of(coordinator).closed


def test_a_limit_follows_the_longest_item(coordinate):
    pool = pool_of(coordinate(1, create=make_answerer, max_steps=8))
    worker = pool._workers[0]
    assert worker.phase == "idle"
    worker.phase = "working"
    for longest, limit in [(0.0, 3600), (3.0, 600), (100.0, 1000)]:
        pool._longest = longest
        assert pool._limit(worker) == limit
    pool._timeout = 7.0
    assert pool._limit(worker) == 7
    worker.phase = "starting"  # whatever it is, a worker may import and load
    assert pool._limit(worker) == 600
    worker.phase = "idle"


def test_no_process_is_left(tiny_folder):
    for way in ("close", "garbage"):
        before = set(children())
        coordinator = RolloutCoordinator(
            make_sums, partial(make_policy, str(tiny_folder), top_p=0.9), GROUPS_OF_4, 2, 8
        )
        started = set(children()) - before
        assert len(started) == 2
        if way == "close":
            coordinator.close()
            coordinator.close()
        else:
            del coordinator
            gc.collect()
        assert all(p.exitcode == 0 for p in started), way


ROOT = Path(__file__).parents[4]


SCRIPT = """
import sys
from functools import partial
from tests.algos.rollouts import shared as t
from tests.algos.shared import SUMS, length, make_env
from textenv.algos import RolloutCoordinator

if __name__ == "__main__":
    end, folder = sys.argv[1:]
    busy = t.arrive_and_sleep if end == "interrupt" else t.never_ends
    reward = length if end == "exit" else partial(busy, folder)
    create_env = partial(make_env, reward, SUMS)
    coordinator = RolloutCoordinator(create_env, t.make_answerer, t.GROUPS_OF_4, 2, 8)
    print(*[w.process.pid for w in coordinator._workers._pool._workers], flush=True)
    coordinator.collect()
"""


@pytest.mark.parametrize("end", ["exit", "interrupt", "kill", "terminate"])
def test_the_end_of_the_main_process_ends_its_workers(tmp_path, end):
    """Also while a reward keeps their interpreters busy; nobody tells them but the system."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script), end, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    pids = list(map(int, process.stdout.readline().split()))
    assert len(pids) == 2
    if end != "exit":
        inside = [tmp_path / str(pid) for pid in pids]
        while not all(path.exists() for path in inside):  # both are in the reward from then on
            assert process.poll() is None
            time.sleep(0.01)
        if end == "interrupt":  # as a terminal does: all of the group
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.send_signal(signal.SIGKILL if end == "kill" else signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    if end == "exit":
        assert process.returncode == 0, errors
    elif end == "interrupt":
        assert errors.rstrip().endswith("KeyboardInterrupt")
        assert errors.count("Traceback") == 1, errors  # the workers say nothing
    assert gone(pids)
