"""Workers end with the process that started them, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

SCRIPT = """
import sys
from functools import partial
from tests.algos.rollouts import test_coordinator as t

if __name__ == "__main__":
    reward = t.length if sys.argv[1] == "exit" else partial(t.arrive_and_sleep, sys.argv[2])
    create_env = partial(t.make_env, reward, t.SUMS)
    coordinator = t.RolloutCoordinator(create_env, t.make_answerer, t.GROUPS_OF_4, 2, 8)
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
