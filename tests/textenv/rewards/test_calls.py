"""Async functions, functions that take a batch, and timeouts."""

import asyncio
import queue
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textenv import reward
from textenv.errors import ConfigError, RewardError, RewardTimeoutError
from textenv.rewards import Reward


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
    begun, all_begun = [], asyncio.Event()

    async def meets(prompt, completion, example):
        """Return when all twenty calls have begun, which never happens if they run in turn."""
        begun.append(completion)
        if len(begun) == 20:
            all_begun.set()
        await asyncio.wait_for(all_begun.wait(), 30)
        return len(completion)

    completions = ["a" * n for n in range(20)]
    assert [total for total, *_ in batch(Reward(meets), completions)] == [*range(20)]
    assert begun == completions


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


def test_an_async_function_that_hangs_is_cut_off():
    events: queue.Queue = queue.Queue()

    async def judge(prompt, completion, example):
        try:
            await asyncio.sleep(3600 if completion == "x" else 0)
        except asyncio.CancelledError:
            events.put(("cancelled", completion))
            raise
        events.put(("finished", completion))
        return float(len(completion))

    scored = Reward(judge, timeout=0.5)
    assert scored("", "abc", {})[0] == 3.0
    assert events.get(timeout=30) == ("finished", "abc")
    with pytest.raises(RewardTimeoutError, match=r"'judge' took longer .*=0\.5 s.*completion 'x'"):
        batch(scored, ["abc", "x", "de"])
    expected = [("finished", "abc"), ("finished", "de"), ("cancelled", "x")]
    assert [events.get(timeout=30) for _ in range(3)] == expected


def test_one_that_is_cut_off_gets_the_score_that_was_set_and_the_others_theirs(judged):
    scored = Reward([judged, "length"], {"judged": 2.0}, timeout=0.5, on_timeout=-1)
    assert [total for total, *_ in batch(scored, ["abc", "x", "de"])] == [9.0, -1.0, 6.0]
    assert scored("", "x", {})[1] == {"judged": -1.0, "length": 1.0}


def test_a_timeout_of_its_own_is_an_error_of_the_function():
    async def client(prompt, completion, example):
        raise TimeoutError("no answer from the server")

    with pytest.raises(RewardError, match="'client' raised TimeoutError: no answer") as caught:
        Reward(client, timeout=5, on_timeout=0)("", "", {})
    assert not isinstance(caught.value, RewardTimeoutError)


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"timeout": 1}, "only cut off async functions.*exact_match.*reward_process=True"),
        ({"timeout": 0, "process": True}, "above 0 seconds and at most 1e6, got 0"),
        ({"timeout": 1e7, "process": True}, "above 0 seconds and at most 1e6, got 10000000"),
        ({"timeout": 10**400, "process": True}, "reward_timeout must be a finite number"),
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


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit()]
)
def test_what_is_no_exception_is_an_error_of_the_function_too(error):
    async def quits(prompt, completion, example):
        await asyncio.sleep(0)
        raise error

    async def fine(prompt, completion, example):
        return 1.0

    class Quits:
        async def __call__(self, prompt, completion, example):
            raise error

    for function in (quits, Quits()):
        for timeout in (None, 5):
            scored = Reward(function, timeout=timeout)
            says = f"raised {type(error).__name__}"
            for begun in ({}, scored.begin("p", "c", {})):
                with pytest.raises(RewardError, match=says):
                    scored("p", "c", {}, begun=begun)
            with pytest.raises(RewardError, match=says):
                batch(scored, ["a", "b"])
            assert Reward(fine)("p", "c", {})[0] == 1.0  # the loop still runs


def test_a_plain_function_that_quits_does_not_end_the_program():
    def quits(prompt, completion, example):
        raise SystemExit(3)

    with pytest.raises(RewardError, match="'quits' raised SystemExit: 3"):
        Reward(quits)("p", "c", {})

    def stopped(prompt, completion, example):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # Ctrl-C looks the same, and must end it
        Reward(stopped)("p", "c", {})


def test_an_async_function_that_blocks_is_cut_off_and_the_next_call_works():
    ends = threading.Event()

    async def blocks(prompt, completion, example):
        if completion == "x":
            ends.wait(60)
        return float(len(completion))

    try:
        scored = Reward(blocks, timeout=0.3, on_timeout=-1.0)
        began = time.monotonic()
        assert scored("p", "x", {})[0] == -1.0
        assert scored("p", "abc", {})[0] == 3.0
        assert [total for total, *_ in batch(scored, ["x", "abc", "de"])] == [-1.0] * 3
        assert [total for total, *_ in batch(scored, ["abc", "de"])] == [3.0, 2.0]
        begun = [scored.begin("p", completion, {}) for completion in ("x", "abc")]
        totals = [scored("p", c, {}, begun=b)[0] for c, b in zip(("x", "abc"), begun)]
        assert totals == [-1.0, -1.0]  # the second one waited behind the first
        assert scored("p", "abc", {})[0] == 3.0
        with pytest.raises(RewardTimeoutError, match="'blocks' took longer"):
            Reward(blocks, timeout=0.3)("p", "x", {})
        assert time.monotonic() - began < 30
    finally:
        ends.set()


def test_a_loop_that_is_busy_for_a_while_is_not_given_up():
    async def busy(prompt, completion, example):
        time.sleep(0.2)
        return 1.0

    assert [total for total, *_ in batch(Reward(busy, timeout=5), ["a"] * 5)] == [1.0] * 5


def test_an_async_reward_inside_another_is_refused():
    async def inner(prompt, completion, example):
        return 1.0

    inside = Reward(inner)

    async def outer(prompt, completion, example):
        return inside(prompt, completion, example)[0]

    async def awaits(prompt, completion, example):
        return await inner(prompt, completion, example)

    async def in_a_thread(prompt, completion, example):
        return (await asyncio.to_thread(inside, prompt, completion, example))[0]

    with pytest.raises(RewardError, match="async reward function was called inside another"):
        Reward(outer)("p", "c", {})
    for fine in (awaits, in_a_thread):
        assert Reward(fine, timeout=30)("p", "c", {})[0] == 1.0


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


def test_nothing_is_begun_of_what_runs_here_or_takes_a_batch(own, made, judged):
    assert made("exact_match").begin("p", "c", {"answer": "c"}) == {}
    scored = made([own.lengths, "exact_match"], process=True)
    assert list(scored.begin("p", "c", {"answer": "c"})) == ["exact_match"]
    assert not made([own.lengths], process=True).runs_elsewhere
    assert scored.runs_elsewhere and made(judged).runs_elsewhere
    assert not made("exact_match").runs_elsewhere
