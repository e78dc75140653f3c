"""Reward functions in a separate process: what they give, and what stops them."""

import os
import subprocess
import sys
import threading
import time

import gymnasium as gym
import pytest

from textenv.errors import ConfigError, RewardError, RewardTimeoutError
from textenv.rewards import Reward


def batch(scored, completions, scores=None):
    n = len(completions)
    return scored.batch(["p"] * n, completions, [{"answer": "a"}] * n, scores or [None] * n)


def test_a_process_scores_as_this_one_does(own, made, judged):
    completions = ["banana", "", "sky"]
    spec = [own.vowels, own.lengths, judged, "correct", "exact_match"]
    here, there = Reward(spec, has_verifier=True), made(spec, has_verifier=True, process=True)
    assert batch(there, completions, [0.5] * 3) == batch(here, completions, [0.5] * 3)
    pids = [made(own.process_id, process=True)("", "", {})[0] for _ in range(2)]
    assert os.getpid() not in pids and pids[0] != pids[1]


def alive(pid):
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    return True


def test_a_function_that_hangs_is_cut_off_and_the_next_call_works(own, made):
    spec, weights = [own.hangs_on_x, own.process_id], {"right": 2.0, "process_id": 0.0}
    scored = made(spec, weights, timeout=2, process=True, on_timeout=-1)
    total, components, _ = scored("", "a", {})
    assert total == 2.5
    first = components["process_id"]
    total, components, _ = scored("", "x", {})
    assert (total, components["hangs_on_x"]) == (-1.0, -1.0)
    assert not alive(first)  # killed in the middle of its call
    second = components["process_id"]
    assert second != first and alive(second)
    assert scored("", "a", {})[:2] == (2.5, {"right": 1.0, "short": 0.5, "process_id": second})
    strict = made(own.hangs_on_x, timeout=0.2, process=True)
    with pytest.raises(RewardTimeoutError, match="'hangs_on_x' took longer"):
        strict("", "x", {})


def test_a_pattern_without_end_is_cut_off(made):
    scored = made("regex", timeout=1, process=True, on_timeout=0)
    assert scored("", "a" * 50 + "b", {"pattern": "(a+)+$"})[0] == 0.0


def test_what_goes_wrong_in_the_process_is_named(own, made):
    for name, says in [
        ("raises", "'raises' raised KeyError: 'missing'"),
        ("dies", "'dies' ended its process with exit code 3"),
        ("unsendable", "'unsendable' raised"),
    ]:
        scored = made(getattr(own, name), process=True)
        for _ in range(2):  # the second time in a new process, if the first one died
            with pytest.raises(RewardError, match=says):
                scored("", "", {})


def test_a_function_that_no_other_process_can_import_is_refused_at_once():
    with pytest.raises(ConfigError, match=r"top level of a module.*'<lambda>' is not"):
        Reward(lambda prompt, completion, example: 0.0, process=True)


def test_a_process_ends_with_its_reward_and_its_environment(own):
    scored = Reward(own.process_id, process=True)
    pid = scored("", "", {})[0]
    assert alive(pid)
    del scored
    assert not alive(pid)
    env = gym.make(
        "textenv:TextGen-v0", prompts=["p"], reward_fn=own.process_id, reward_process=True
    )
    env.reset(seed=0)
    pid = env.step("a")[1]
    assert alive(pid)
    env.close()
    assert not alive(pid)


NEVER_ENDS = """
import os, re, sys
from pathlib import Path

def never_ends(prompt, completion, example):
    Path(completion).write_text(str(os.getpid()))
    Path(completion).rename(completion + ".whole")
    re.match(r"(a*)*b", "a" * 100)  # never returns to Python
"""

ASKS = """
import sys
from never import never_ends
from textenv.rewards import Reward

if __name__ == "__main__":
    Reward(never_ends, process=True)("", sys.argv[1], {})
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs F_SETSIG")
def test_a_process_ends_with_the_one_that_asks_whatever_it_computes(tmp_path):
    (tmp_path / "never.py").write_text(NEVER_ENDS)
    (tmp_path / "asks.py").write_text(ASKS)
    told = tmp_path / "pid"
    with subprocess.Popen([sys.executable, str(tmp_path / "asks.py"), str(told)]) as asks:
        while not (tmp_path / "pid.whole").exists():
            assert asks.poll() is None
            time.sleep(0.01)
        asks.kill()
    pid = int((tmp_path / "pid.whole").read_text())
    deadline = time.monotonic() + 20
    while alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_daemonic_worker_says_what_to_do(tmp_path, own):
    code = """
import multiprocessing
from textenv.errors import ConfigError
from textenv.rewards import Reward

def work(connection):
    try:
        Reward("length", process=True)
    except ConfigError as error:
        connection.send(str(error))

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=work, args=(there,), daemon=True)
    process.start()
    print(here.recv())
"""
    (tmp_path / "main.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "main.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert "vector_kwargs={'daemon': False}" in done.stdout, done.stderr


def test_a_script_without_a_main_guard_is_told(tmp_path):
    code = """
from textenv.rewards import Reward
def mine(prompt, completion, example):
    return 1.0
print(Reward(mine, process=True)("", "", {}))
"""
    (tmp_path / "main.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "main.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert "must be under `if __name__ == '__main__':`" in done.stderr, done.stderr


def test_what_fails_after_it_was_begun_is_an_error_of_the_step(own, made, judged):
    scored = made(own.raises, process=True)
    begun = scored.begin("p", "c", {})
    with pytest.raises(RewardError, match=r"'raises' raised KeyError: 'missing' \(prompt 'p'"):
        scored("p", "c", {}, begun=begun)
    scored = made(judged, timeout=0.05, on_timeout=-1.0)
    assert scored("p", "x", {}, begun=scored.begin("p", "x", {}))[0] == -1.0


def test_a_process_takes_what_was_begun_in_turn_and_one_that_hangs_alone_is_cut_off(own, made):
    scored = made(own.hangs_on_x, timeout=1.0, process=True, on_timeout=0.0)
    scored("p", "warm", {})
    begun = [scored.begin("p", completion, {}) for completion in "axb"]
    totals = [scored("p", c, {}, begun=b)[0] for c, b in zip("axb", begun)]
    assert totals == [1.5, 0.0, 1.5]
    assert scored("p", "c", {})[0] == 1.5  # a call that was not begun before uses the same queue


def test_closing_cancels_what_was_begun(own, made):
    scored = made(own.hangs_on_x, process=True)
    begun = [scored.begin("p", completion, {}) for completion in "xab"]
    end = time.monotonic() + 30
    while not begun[0]["hangs_on_x"].running() and time.monotonic() < end:
        time.sleep(0.01)
    scored.close()
    assert all(later["hangs_on_x"].cancelled() for later in begun[1:])
    assert scored("p", "c", {})[0] == 1.5  # in a new process


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "rewards"]


def test_the_thread_that_calls_a_process_ends_with_its_reward(own):
    before = threads()
    scored = Reward(own.vowels, process=True)
    assert scored("p", "aei", {}, begun=scored.begin("p", "aei", {}))[0] == 3.0
    (own_thread,) = set(threads()) - set(before)
    scored.close()
    del scored
    own_thread.join(30)
    assert not own_thread.is_alive()
