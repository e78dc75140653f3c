"""Worker processes: what is raised in them, how they die, and that none is left behind."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from tests.algos.rollouts.shared import (
    GROUPS_OF_4,
    children,
    exit_at_once,
    kill_the_last_to_come,
    make_policy_that,
    make_sums,
    raise_own_error,
    raise_value_error,
)
from tests.algos.shared import SUMS, make_env, make_policy
from textenv.algos import RolloutCoordinator
from textenv.algos.rollouts.pool import WorkerTraceback
from textenv.algos.rollouts.worker import WorkerError


def test_what_a_reward_raises_reaches_the_caller(coordinate):
    coordinator = coordinate(2, partial(make_env, raise_value_error, SUMS))
    with pytest.raises(ValueError, match="no reward for") as caught:
        coordinator.collect()
    assert isinstance(caught.value.__cause__, WorkerTraceback)
    assert "in raise_value_error" in str(caught.value.__cause__)
    assert not {p.pid for p in children()} & {
        w.process.pid for w in coordinator._workers._pool._workers
    }
    with pytest.raises(WorkerError, match="make another coordinator"):
        coordinator.collect()


def test_an_exception_that_cannot_be_sent_arrives_as_text():
    with pytest.raises(WorkerError, match=r"(?s)raise_own_error.*OwnError: 1\+1= 3"):
        create = partial(make_policy_that, raise_own_error)
        RolloutCoordinator(make_sums, create, GROUPS_OF_4, 1, 8)


def test_a_dead_worker_is_noticed_while_others_are_at_work(coordinate, tmp_path):
    reward = partial(kill_the_last_to_come, str(tmp_path))
    coordinator = coordinate(2, partial(make_env, reward, SUMS))
    processes = [worker.process for worker in coordinator._workers._pool._workers]
    with pytest.raises(
        WorkerError, match=r"worker process [01] \(pid \d+\) was killed by signal 9"
    ):
        coordinator.collect()
    assert not set(processes) & set(children())
    # The other has left its reward, which takes an hour, because it was told to end.
    assert sorted(p.exitcode for p in processes) == [-signal.SIGKILL, 0]


def test_a_worker_that_died_in_between(coordinate):
    coordinator = coordinate(2)
    victim = coordinator._workers._pool._workers[1].process
    victim.kill()
    victim.join()
    with pytest.raises(WorkerError, match=r"worker process 1 .*killed by signal 9"):
        coordinator.collect()


def test_a_worker_that_does_not_start():
    with pytest.raises(WorkerError, match=r"ended with code 7 as it started.*__main__"):
        RolloutCoordinator(make_sums, partial(make_policy_that, exit_at_once), GROUPS_OF_4, 1, 8)


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


ROOT = Path(__file__).parents[3]


SCRIPT = """
import sys
from functools import partial
from tests.algos.rollouts import shared as t
from tests.algos.shared import SUMS, length, make_env
from textenv.algos import RolloutCoordinator

if __name__ == "__main__":
    reward = length if sys.argv[1] == "exit" else partial(t.arrive_and_sleep, sys.argv[2])
    create_env = partial(make_env, reward, SUMS)
    coordinator = RolloutCoordinator(create_env, t.make_answerer, t.GROUPS_OF_4, 2, 8)
    print(*[w.process.pid for w in coordinator._workers._pool._workers], flush=True)
    coordinator.collect()
"""


@pytest.mark.parametrize("end", ["exit", "interrupt", "kill"])
def test_the_end_of_the_main_process_ends_its_workers(tmp_path, end):
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
            process.kill()
            for pid in pids:  # they cannot know before the reward returns
                os.kill(pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    if end == "exit":
        assert process.returncode == 0, errors
    elif end == "interrupt":
        assert errors.rstrip().endswith("KeyboardInterrupt")
        assert errors.count("Traceback") == 1, errors  # the workers say nothing
    deadline = time.monotonic() + 30  # far from the hour that a reward takes
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.01)
