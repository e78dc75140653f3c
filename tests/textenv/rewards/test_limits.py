"""Verifiers with the parsers of other libraries: what is refused at once, and what is cut off."""

import math
import operator
import os
import signal
import subprocess
import sys
import threading
import time

import gymnasium as gym
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textenv import tasks
from textenv.errors import RewardTimeoutError
from textenv.rewards import Reward, limits
from textenv.rewards.limits import TIMED_OUT, Failed, is_bounded, run_limited


@pytest.mark.parametrize(
    "text",
    [
        *("9**9**9**9", "9^9^9^9", "$9^{9^{9^9}}$", "10 ** 10 ** 10", "9**(9**9)", "2**99999"),
        *("2^{-123456}", "1e999999999", "-1E+99999", "x**9999999", "9" * 1000, "a" * 200_000),
    ],
)
def test_what_is_too_large_to_compute(text):
    assert not is_bounded(text)
    assert not is_bounded(f"The answer is {text}.")


@pytest.mark.parametrize(
    "text",
    [
        *("9**9", "2^{2^{10}}", "(x^2)^3", "x**3*sin(x)", "e^{-x^2}", "1e308", "10^{9999}"),
        *("3*(5+3)", "", "a^b^c", "9" * 999, "F+1 K-2", "2**3 + 4**5", "one line\n" * 1000),
    ],
)
def test_what_can_be_computed(text):
    assert is_bounded(text)


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(1, 10**6))
def test_a_tower_is_bounded_if_its_exponent_has_few_digits(base, low, high):
    digits = high * math.log10(low)
    expected = digits <= 4 and low < 10**4 and high < 10**4
    assert is_bounded(f"{base}**{low}**{high}") == expected


def test_a_call_gives_what_the_function_gives():
    assert run_limited(math.sqrt, (4.0,), 10) == 2.0
    outcome = run_limited(math.sqrt, (-1.0,), 10)
    assert isinstance(outcome, Failed) and outcome.message.startswith("raised ValueError: ")
    assert run_limited(os._exit, (3,), 10) == Failed("ended its process with exit code 3")
    assert "exit code" in run_limited(sys.exit, (3,), 10).message
    assert run_limited(math.sqrt, (9.0,), 10) == 3.0  # in a new process
    assert run_limited(math.sqrt, (16.0,), limits.MOST_SECONDS) == 4.0


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("function", "arguments"), [(time.sleep, (600,)), (operator.pow, (9, 9**10))]
)
def test_a_call_without_end_is_cut_off_also_in_c(function, arguments):
    pid = run_limited(os.getpid, (), 10)
    assert pid != os.getpid() and run_limited(os.getpid, (), 10) == pid
    began = time.monotonic()
    assert run_limited(function, arguments, 0.5) is TIMED_OUT
    assert time.monotonic() - began < 30
    assert not alive(pid)
    assert run_limited(math.sqrt, (4.0,), 10) == 2.0


def test_calls_of_several_threads_get_their_own_answers():
    got = {}

    def work(i):
        got[i] = [run_limited(operator.mul, (i, j), 60) for j in range(50)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {i: [i * j for j in range(50)] for i in range(4)}


def test_ctrl_c_ends_the_wait_and_the_next_call_gets_its_own_answer():
    run_limited(math.sqrt, (4.0,), 10)
    timer = threading.Timer(0.5, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        run_limited(time.sleep, (3,), 60)
    assert run_limited(math.sqrt, (9.0,), 10) == 3.0


SCRIPT = """
import multiprocessing
import gymnasium as gym
import textenv.rewards

def work(connection):
    connection.send(textenv.rewards.Reward("math_equal")("", "1/2", {"answer": "0.5"})[0])

if multiprocessing.parent_process() is None and __name__ == "__main__":
    here, there = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(target=work, args=(there,), daemon=True)
    process.start()
    print(here.recv())
print(textenv.rewards.Reward("math_equal")("", "1/2", {"answer": "0.5"})[0], __name__)
"""


def test_it_needs_no_main_guard_and_works_in_daemonic_processes(tmp_path):
    pytest.importorskip("math_verify")
    (tmp_path / "main.py").write_text(SCRIPT)
    command = [sys.executable, "main.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["1.0", "1.0", "__main__"], done.stderr
    assert done.stderr == ""


def test_the_process_ends_with_the_one_that_asks_even_in_the_middle_of_a_call():
    code = (
        "import os, time; from textenv.rewards.limits import run_limited;"
        "print(run_limited(os.getpid, (), 9), flush=True); run_limited(time.sleep, (600,), 1)"
    )
    asks = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(asks.stdout.readline())
    time.sleep(0.3)
    asks.kill()
    asks.wait()
    end = time.monotonic() + 30  # the call's second, and five more
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.1)
    assert not alive(pid)


SLOW = "$2^{9999*9999*9999}$"  # no exponent of it is large


def test_a_formula_without_end_scores_nothing(monkeypatch):
    pytest.importorskip("math_verify")
    began = time.monotonic()
    example = {"answer": "42"}
    for completion in ("$9^{9^{9^9}}$", r"\boxed{9^{9^9}}", "9" * 100_000):
        assert Reward("math_equal")("", completion, example)[::2] == (0.0, False)
    monkeypatch.setattr(limits, "DEFAULT_SECONDS", 1.0)
    assert Reward("math_equal")("", SLOW, example)[::2] == (0.0, False)
    assert Reward("math_equal", timeout=1, on_timeout=-1.0)("", SLOW, example)[0] == -1.0
    with pytest.raises(RewardTimeoutError, match="'math_equal' took longer"):
        Reward("math_equal", timeout=1)("", SLOW, example)
    assert Reward("math_equal")("", "$40 + 2$", example)[0] == 1.0
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(
    "dataset",
    [
        *("countdown", "puzzle24", "coin_flip", "rush_hour", "simple_integration"),
        *("polynomial_multiplication", "intermediate_integration"),
    ],
)
def test_no_completion_hangs_a_verifier_of_reasoning_gym(dataset):
    pytest.importorskip("reasoning_gym")
    if f"reasoning_gym:{dataset}" not in tasks.names():
        pytest.skip(f"this version of reasoning-gym has no {dataset}")
    env = gym.make("textenv:TextGen-v0", task=f"reasoning_gym:{dataset}", reward_timeout=2)
    assert env.unwrapped.task.verifier_timeout == 2
    began = time.monotonic()
    for completion in ("9**9**9**9", "1e999999999", "-1E+999999999", "exp(exp(exp(9**9)))", "F+1"):
        _, info = env.reset(seed=1)
        _, reward, terminated, _, _ = env.step(completion)
        assert reward < 1 and terminated
    assert time.monotonic() - began < 60
    env.reset(options={"example_id": info["example_id"]})
    task = env.unwrapped.task
    if dataset != "rush_hour":  # which has no oracle
        assert env.step(task.oracle(env.unwrapped.example))[1] == 1.0


def test_the_limit_reaches_the_levels_of_a_task_and_no_other_task():
    pytest.importorskip("reasoning_gym")
    task = tasks.make("reasoning_gym:chain_sum")
    short = task.with_timeout(3)
    assert (task.verifier_timeout, short.verifier_timeout) == (limits.DEFAULT_SECONDS, 3)
    assert task.at_level(1).verifier_timeout == limits.DEFAULT_SECONDS
    assert short.at_level(1).verifier_timeout == 3
    with pytest.raises(ValueError, match="reward_timeout can only cut off async functions"):
        gym.make("TextGen-v0", task="arithmetic", reward_timeout=3)
