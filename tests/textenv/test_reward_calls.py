"""Async functions, functions of a batch, and what happens to those that hang."""

import asyncio
import importlib
import os
import subprocess
import sys
import threading
import time

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textenv import reward, rewards
from textenv.errors import ConfigError, RewardError, RewardTimeoutError
from textenv.rewards import Reward


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    monkeypatch.setattr(rewards, "_registry", dict(rewards._registry))


MODULE = """
import os, time

def vowels(prompt, completion, example):
    return float(sum(letter in "aeiou" for letter in completion))

def process_id(prompt, completion, example):
    return float(os.getpid())

def hangs_on_x(prompt, completion, example):
    if completion == "x":
        time.sleep(60)
    return {"right": 1.0, "short": 0.5}

def raises(prompt, completion, example):
    raise KeyError("missing")

def dies(prompt, completion, example):
    os._exit(3)

def unsendable(prompt, completion, example):
    return {"a": lambda: 1}

def lengths(prompts, completions, examples):
    return [float(len(completion)) for completion in completions]
lengths.batch = True
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A user's module of reward functions, which another process can import."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "own_rewards.py").write_text(MODULE)
    sys.path.insert(0, str(folder))
    yield importlib.import_module("own_rewards")
    sys.path.remove(str(folder))
    del sys.modules["own_rewards"]


@pytest.fixture
def made():
    """Make rewards, and close them at the end."""
    open_ones = []

    def make(*args, **kwargs):
        open_ones.append(Reward(*args, **kwargs))
        return open_ones[-1]

    yield make
    for one in open_ones:
        one.close()


async def judged(prompt, completion, example):
    """An async function that takes a while; ``x`` hangs."""
    await asyncio.sleep(60 if completion == "x" else 0.1)
    return float(len(completion))


def batch(scored, completions, scores=None):
    n = len(completions)
    return scored.batch(["p"] * n, completions, [{"answer": "a"}] * n, scores or [None] * n)


@given(st.lists(st.text(max_size=5), min_size=1, max_size=5))
def test_a_batch_is_what_one_after_another_is(completions):
    async def later(prompt, completion, example):
        return {"later": len(completion), "twice": 2 * len(completion)}

    def at_once(prompts, completions, examples):
        return np.array([len(completion) for completion in completions])

    at_once.batch = True
    spec = ["exact_match", later, at_once, "correct"]
    scored = Reward(spec, {"twice": -0.5}, has_verifier=True)
    scores = [i / 10 for i in range(len(completions))]
    together = batch(scored, completions, scores)
    for i, completion in enumerate(completions):
        n, exact = len(completion), float(completion.strip() == "a")
        components = {
            "exact_match": exact,
            "later": n,
            "twice": 2 * n,
            "at_once": n,
            "correct": scores[i],
        }
        assert together[i] == (pytest.approx(exact + n + scores[i]), components, False)
        assert scored("p", completion, {"answer": "a"}, scores[i]) == together[i]


def test_async_calls_of_a_batch_run_at_the_same_time():
    async def slow(prompt, completion, example):
        await asyncio.sleep(0.2)
        return len(completion)

    started = time.perf_counter()
    assert [total for total, *_ in batch(Reward(slow), ["a" * n for n in range(20)])] == [
        *range(20)
    ]
    assert time.perf_counter() - started < 2  # one after another they take 4 s


def test_async_calls_share_a_loop_that_stays_and_work_inside_a_running_one():
    loops = []

    async def where(prompt, completion, example):
        loops.append(asyncio.get_running_loop())
        return 0.0

    scored = Reward(where)
    for _ in range(3):
        scored("", "", {})

    async def notebook():
        scored("", "", {})

    asyncio.run(notebook())
    thread = threading.Thread(target=scored, args=("", "", {}))
    thread.start()
    thread.join()
    assert len(loops) == 5 and len(set(map(id, loops))) == 1


def test_an_object_whose_call_is_async_is_awaited():
    class Judge:
        async def __call__(self, prompt, completion, example):
            return 2.0

    assert Reward(Judge())("", "", {})[:2] == (2.0, {"Judge": 2.0})


def test_a_batch_function_is_called_once_and_alone_with_lists_of_one():
    given_lists = []

    @reward(batch=True)
    async def watched(prompts, completions, examples):
        given_lists.append((prompts, completions, examples))
        return [{"a": 1.0, "b": 2.0} for _ in completions]

    scored = Reward("watched")
    assert scored("p", "c", {"i": 0}) == (3.0, {"a": 1.0, "b": 2.0}, None)
    assert len(batch(scored, ["a", "b", "c"])) == 3
    assert given_lists[0] == (["p"], ["c"], [{"i": 0}])
    assert [list(map(len, lists)) for lists in given_lists] == [[1, 1, 1], [3, 3, 3]]


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ([1.0], "list of 2 rewards, got 1 of them"),
        ([1.0] * 3, "list of 2 rewards, got 3 of them"),
        (1.0, "list of 2 rewards, got float"),
        ("ab", "list of 2 rewards, got str"),
        ({"a": 1.0, "b": 2.0}, "list of 2 rewards, got dict"),
        (None, "list of 2 rewards, got NoneType"),
        ([1.0, "x"], "returned 'x'"),
        ([1.0, float("nan")], "returned nan"),
    ],
)
def test_a_batch_function_that_returns_something_else_is_named(returned, says):
    def crooked(prompts, completions, examples):
        return returned

    crooked.batch = True
    with pytest.raises(RewardError, match=f"crooked.*{says}"):
        batch(Reward(crooked), ["a", "b"])


def test_what_raises_in_a_batch_is_named_with_its_own_completion():
    async def picky(prompt, completion, example):
        return 1 / len(completion)

    with pytest.raises(RewardError, match=r"'picky' raised ZeroDivisionError.*completion ''"):
        batch(Reward(picky), ["a", "", "b"])

    async def wrong_arguments(completion):
        return 0.0

    with pytest.raises(RewardError, match="'wrong_arguments' raised TypeError"):
        Reward(wrong_arguments)("", "", {})


# Timeouts -----------------------------------------------------------------------------------------


def test_an_async_function_that_hangs_is_cut_off():
    started = time.perf_counter()
    scored = Reward(judged, timeout=0.5)
    assert scored("", "abc", {})[0] == 3.0
    with pytest.raises(RewardTimeoutError, match=r"'judged' took longer .*=0\.5 s.*completion 'x'"):
        batch(scored, ["abc", "x", "de"])
    assert time.perf_counter() - started < 10


def test_one_that_is_cut_off_gets_the_score_that_was_set_and_the_others_theirs():
    scored = Reward([judged, "length"], {"judged": 2.0}, timeout=0.5, on_timeout=-1)
    assert [total for total, *_ in batch(scored, ["abc", "x", "de"])] == [9.0, -1.0, 6.0]
    assert scored("", "x", {})[1] == {"judged": -1.0, "length": 1.0}


def test_a_timeout_of_its_own_is_an_error_of_the_function():
    async def client(prompt, completion, example):
        raise TimeoutError("no answer from the server")

    with pytest.raises(RewardError, match="'client' raised TimeoutError: no answer") as caught:
        Reward(client, timeout=5, on_timeout=0)("", "", {})
    assert not isinstance(caught.value, RewardTimeoutError)


def test_an_environment_takes_the_settings_and_its_spec_keeps_them():
    settings = {"reward_timeout": 0.3, "reward_on_timeout": -2.0}
    env = gym.make("textenv:TextGen-v0", prompts=["p"], reward_fn=judged, **settings)
    for copy in (env, gym.make(env.spec), gym.make(env.unwrapped.spec)):
        copy.reset(seed=0)
        assert copy.step("x")[1] == -2.0


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"timeout": 1}, "only cut off async functions.*exact_match.*reward_process=True"),
        ({"timeout": 0, "process": True}, "above 0 seconds, got 0"),
        ({"timeout": float("nan"), "process": True}, "reward_timeout must be a finite number"),
        ({"timeout": "1", "process": True}, "reward_timeout must be a finite number, got '1'"),
        ({"on_timeout": 0.0}, "reward_timeout, which is not set"),
        ({"timeout": 1, "process": True, "on_timeout": float("inf")}, "reward_on_timeout must be"),
    ],
)
def test_settings_that_cannot_work_are_refused(kwargs, says):
    with pytest.raises(ConfigError, match=says):
        Reward("exact_match", **kwargs)


def test_the_tasks_own_verifier_alone_has_nothing_to_cut_off():
    for process in (False, True):
        with pytest.raises(ConfigError, match=r"none of correct is async$"):
            Reward("correct", has_verifier=True, timeout=1, process=process)


# A process of its own -----------------------------------------------------------------------------


def test_a_process_scores_as_this_one_does(own, made):
    completions = ["banana", "", "sky"]
    spec = [own.vowels, own.lengths, judged, "correct", "exact_match"]
    here, there = Reward(spec, has_verifier=True), made(spec, has_verifier=True, process=True)
    assert batch(there, completions, [0.5] * 3) == batch(here, completions, [0.5] * 3)
    pids = [made(own.process_id, process=True)("", "", {})[0] for _ in range(2)]
    assert os.getpid() not in pids and pids[0] != pids[1]


def test_a_function_that_hangs_is_cut_off_and_the_next_call_works(own, made):
    scored = made(own.hangs_on_x, {"right": 2.0}, timeout=2, process=True, on_timeout=-1)
    assert scored("", "a", {})[0] == 2.5
    started = time.perf_counter()
    assert scored("", "x", {}) == (-1.0, {"hangs_on_x": -1.0}, None)
    assert 1.5 < time.perf_counter() - started < 20
    assert scored("", "a", {})[0] == 2.5
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
        for _ in range(2):  # and again, in a new process where it died
            with pytest.raises(RewardError, match=says):
                scored("", "", {})


def test_a_function_that_no_other_process_can_import_is_refused_at_once():
    with pytest.raises(ConfigError, match=r"top level of a module.*'<lambda>' is not"):
        Reward(lambda prompt, completion, example: 0.0, process=True)


def test_a_process_ends_with_its_reward_and_its_environment(own):
    def alive(pid):
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return False
        return True

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


@pytest.mark.parametrize("weights", [None, {"judged": 2.0}])
def test_what_was_begun_is_what_would_have_come(own, made, weights):
    async def judged(prompt, completion, example):
        return float(len(completion))

    scored = made([judged, own.vowels, "exact_match"], weights, process=True)
    for completion in ["", "a", "hello"]:
        row = "p", completion, {"answer": "a"}
        begun = scored.begin(*row)
        assert sorted(begun) == ["exact_match", "judged", "vowels"]
        assert scored(*row, begun=begun) == scored(*row)


def test_what_fails_after_it_was_begun_is_an_error_of_the_step(own, made):
    scored = made(own.raises, process=True)
    begun = scored.begin("p", "c", {})
    with pytest.raises(RewardError, match=r"'raises' raised KeyError: 'missing' \(prompt 'p'"):
        scored("p", "c", {}, begun=begun)
    scored = made(judged, timeout=0.05, on_timeout=-1.0)
    assert scored("p", "x", {}, begun=scored.begin("p", "x", {}))[0] == -1.0


def test_nothing_is_begun_of_what_runs_here_or_takes_a_batch(own, made):
    assert made("exact_match").begin("p", "c", {"answer": "c"}) == {}
    scored = made([own.lengths, "exact_match"], process=True)
    assert list(scored.begin("p", "c", {"answer": "c"})) == ["exact_match"]
    assert not made([own.lengths], process=True).runs_elsewhere
    assert scored.runs_elsewhere and made(judged).runs_elsewhere
    assert not made("exact_match").runs_elsewhere


def test_a_process_takes_what_was_begun_in_turn_and_one_that_hangs_alone_is_cut_off(own, made):
    scored = made(own.hangs_on_x, timeout=1.0, process=True, on_timeout=0.0)
    scored("p", "warm", {})
    begun = [scored.begin("p", completion, {}) for completion in "axb"]
    totals = [scored("p", c, {}, begun=b)[0] for c, b in zip("axb", begun)]
    assert totals == [1.5, 0.0, 1.5]
    assert scored("p", "c", {})[0] == 1.5  # and calls that were not begun go the same way


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


def test_an_environment_scores_the_action_that_it_is_given():
    """What was begun for another action, or before a reset, is let go."""
    called, cancelled = [], []

    async def slow(prompt, completion, example):
        called.append((prompt, completion))
        try:
            await asyncio.sleep(0.2)
        except asyncio.CancelledError:
            cancelled.append(completion)
            raise
        return float(len(completion))

    env = gym.make("textenv:TextGen-v0", prompts=["p"], reward_fn=slow).unwrapped
    env.prescore("before the first reset")
    env.reset(seed=0)
    env.prescore("one")
    env.prescore("one")
    assert env.step("one")[1] == 3.0 and called == [("p", "one")]
    env.prescore("after the end")
    env.reset()
    env.prescore("other")
    time.sleep(0.05)
    assert env.step("three")[1] == 5.0
    env.reset()
    env.prescore("reset")
    time.sleep(0.05)
    env.reset()
    assert env.step("reset")[1] == 5.0
    env.reset()
    env.prescore("closed")
    time.sleep(0.05)
    env.close()
    time.sleep(0.05)
    assert cancelled == ["other", "reset", "closed"]
    assert [c for _, c in called] == ["one", "other", "three", "reset", "reset", "closed"]
