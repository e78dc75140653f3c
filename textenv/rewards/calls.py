"""Calls a reward function, whether plain, async or for a batch, with an optional timeout.

The result of a call is one outcome for each completion: what the function returned, a `Failed`,
or `TIMED_OUT`.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import Any, NamedTuple

from textenv.errors import RewardError
from textenv.rewards.limits import Limited
from textenv.rewards.process import TIMED_OUT, Failed, Worker, failure

__all__ = [
    "TIMED_OUT",
    "Failed",
    "Rows",
    "begin",
    "call",
    "call_now",
    "is_async",
    "result",
    "takes_batch",
]


class Rows(NamedTuple):
    """The prompts, completions and examples to score, one of each per row."""

    prompts: Sequence[str]
    completions: Sequence[str]
    examples: Sequence[dict[str, Any]]


def is_async(function: Callable[..., Any]) -> bool:
    """Whether a function, or the ``__call__`` of an object, is ``async def``."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004  (of an object)
    )


def takes_batch(function: Callable[..., Any]) -> bool:
    """Whether a function was declared with ``@reward(batch=True)``."""
    if isinstance(function, functools.partial):
        return takes_batch(function.func)
    return getattr(function, "batch", False)


def call(
    name: str,
    function: Callable[..., Any],
    rows: Rows,
    timeout: float | None = None,
    worker: Worker | Limited | None = None,
) -> list[Any]:
    """Call a reward function for every row, and return one outcome for each row.

    A function that takes a batch is called once for all rows. Async calls run at the same time.
    Other calls run one after another, in the worker if there is one.
    """
    batch = takes_batch(function)
    calls = [tuple(rows)] if batch else list(zip(*rows))
    if is_async(function):
        begun = [_begun(timeout, function, arguments) for arguments in calls]
        outcomes = [result(future, timeout) for future in begun]
    elif worker is not None:
        outcomes = [worker.call(name, arguments, timeout) for arguments in calls]
    else:
        outcomes = [call_now(function, arguments) for arguments in calls]
    return _spread(outcomes[0], len(rows.prompts)) if batch else outcomes


def begin(
    name: str,
    function: Callable[..., Any],
    row: tuple[Any, ...],
    timeout: float | None = None,
    worker: Worker | Limited | None = None,
) -> Future[Any] | None:
    """Call a function for one row without waiting, and return the future with its outcome.

    It returns None if the function would run in this thread, or takes a batch of rows.
    """
    if takes_batch(function):
        return None
    if is_async(function):
        return _begun(timeout, function, row)
    return None if worker is None else worker.submit(name, row, timeout)


def result(future: Future[Any], timeout: float | None) -> Any:
    """Wait for the outcome of a call that was begun.

    The event loop cuts off an async function after the timeout. If a function blocks the loop, so
    that it cannot do that, the waiting ends here, and later calls get another loop.
    """
    loop: Any = getattr(future, "loop", None)
    if loop is None or timeout is None:
        return future.result()
    while True:
        done, _ = wait([future], 0 if loop is not _loops.get(os.getpid()) else timeout)
        if done:
            return future.result()
        answers = threading.Event()
        loop.call_soon_threadsafe(answers.set)
        if loop is not _loops.get(os.getpid()) or not answers.wait(timeout):
            if _loops.get(os.getpid()) is loop:
                del _loops[os.getpid()]
            return future.result() if future.done() else TIMED_OUT


def call_now(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Call a plain function in this thread, and return its outcome."""
    try:
        return function(*arguments)
    except (Exception, SystemExit) as error:  # it is the user's code, which may raise anything
        return failure(error)


def _spread(outcome: Any, count: int) -> list[Any]:
    """One outcome for each row, from the outcome of one call with a batch of rows."""
    if outcome is TIMED_OUT or isinstance(outcome, Failed):
        return [outcome] * count
    if not hasattr(outcome, "__len__") or isinstance(outcome, (str, dict)):
        came = type(outcome).__name__
    elif len(outcome) != count:
        came = f"{len(outcome)} of them"
    else:
        return list(outcome)
    failed = Failed(f"takes a batch and must return a list of {count} rewards, got {came}")
    return [failed] * count


def _begun(
    timeout: float | None, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> Future[Any]:
    """Call an async function in the loop of this process; returns the future with its outcome.

    Raises:
        RewardError: in that loop's own thread, which would wait for itself.
    """
    loop = _loop()
    if _runs_here(loop):
        raise RewardError(
            "an async reward function was called inside another one, which would wait for ever: "
            "await the inner function itself, or give both as reward_fn=[outer, inner]"
        )
    future = asyncio.run_coroutine_threadsafe(_within(timeout, function, arguments), loop)
    future.loop = loop  # type: ignore[attr-defined]
    return future


def _runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether this thread is the one in which a loop runs."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


async def _within(
    timeout: float | None, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> Any:
    task = asyncio.ensure_future(_guarded(function, arguments))
    try:
        await asyncio.wait({task}, timeout=timeout)
        return task.result() if task.done() else TIMED_OUT
    finally:
        task.cancel()  # no effect if the task is done


async def _guarded(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return await function(*arguments)
    # It is the user's code, which may raise anything. SystemExit and KeyboardInterrupt would end
    # the loop's thread, and CancelledError would reach whoever waits.
    except BaseException as error:
        return failure(error)


_loops: dict[int, asyncio.AbstractEventLoop] = {}


def _loop() -> asyncio.AbstractEventLoop:
    """The event loop of this process for async reward functions; it runs in its own thread.

    All calls use one loop, because the clients and sessions that an async function keeps belong
    to a loop. It is not the main thread's loop, because in a notebook that one is running already.
    """
    process = os.getpid()
    if process not in _loops:
        loop = _loops[process] = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, name="rewards", daemon=True).start()
    return _loops[process]
