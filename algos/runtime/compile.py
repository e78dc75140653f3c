"""`mx.compile` with a warning about too many shapes, and in a form that works inside a gradient.

MLX compiles a function anew for each shape of its arguments, and keeps all of them. If shapes never
repeat, every call waits for the compiler and memory only grows: `compiled` warns about this.

While MLX traces a gradient, a function from `mx.compile` whose arguments are traced runs as the
separate operations that it was written in. An elementwise function of a custom gradient then costs
three times as much. Each thread knows only what it traces itself. So, within `gradients`, a
function made by `piece` is called in another thread, which traces nothing and returns the compiled
operations. Nothing is computed there, because arrays are lazy. `piece` is only for the bodies of an
`mx.custom_function` and of its vjp, which no gradient is taken of.
"""

from __future__ import annotations

import queue
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402
from mlx.utils import tree_flatten  # noqa: E402

KEPT = 2**21
"""Numbers that one layer may keep for its backward: 8 MB of float32."""
_here = threading.local()  # .tracing, .gradients: whether this thread is in such a block


def compiled(function: Callable[..., Any], setting: str, most: int = 64) -> Callable[..., Any]:
    """``mx.compile``, with one warning if its arguments have more shapes than expected.

    Args:
        function: a function of arrays, or of structures of arrays.
        setting: what keeps the number of shapes small; the warning ends with it.
        most: the most shapes that are expected.
    """
    quick = mx.compile(function)
    seen: set[tuple[Any, ...]] = set()

    def call(*args: Any) -> Any:
        if len(seen) <= most:
            arrays = dict(tree_flatten(args)).values()
            seen.add(tuple((array.shape, array.dtype) for array in arrays))
            if len(seen) > most:
                warnings.warn(
                    f"{function.__qualname__} has been compiled for {len(seen)} shapes of its "
                    f"arguments, each of which takes time and stays in memory: {setting}",
                    stacklevel=3,
                )
        return quick(*args)

    return call


@contextmanager
def traced(name: str = "tracing") -> Iterator[None]:
    """A block that traces something, and in which functions from `piece` still run compiled."""
    before = getattr(_here, name, False)
    setattr(_here, name, True)
    try:
        yield
    finally:
        setattr(_here, name, before)


@contextmanager
def gradients() -> Iterator[None]:
    """A `traced` block in which a gradient is traced: a forward may keep results, see `keeps`."""
    with traced(), traced("gradients"):
        yield


def keeps(*arrays: mx.array) -> bool:
    """Whether a forward should keep results of these sizes for its backward.

    It should if there will be a backward and they are small. A large one is computed again: the
    memory to keep it would cost more than the time.
    """
    return has_backward() and sum(array.size for array in arrays) <= KEPT


def has_backward() -> bool:
    """Whether this thread is in a block of `gradients`."""
    return getattr(_here, "gradients", False)


def piece(function: Callable[..., Any]) -> Callable[..., Any]:
    """``mx.compile(function, shapeless=True)``, compiled within `gradients` too."""
    inner = mx.compile(function, shapeless=True)

    @wraps(function)
    def call(*arrays: mx.array) -> Any:
        if not getattr(_here, "tracing", False):
            return inner(*arrays)
        return _thread().call(inner, arrays)

    return call


class _Thread:
    """A thread that calls functions for other threads; it ends with the process."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="untraced", daemon=True).start()

    def call(self, function: Callable[..., Any], arrays: tuple[mx.array, ...]) -> Any:
        """The result of a function called in this thread, on the caller's stream."""
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        stream = mx.default_stream(mx.default_device())
        self._calls.put((function, arrays, stream, answers))
        result, error = answers.get()
        if error is not None:
            raise error
        return result

    def _run(self) -> None:
        while True:
            function, arrays, stream, answers = self._calls.get()
            try:
                with mx.stream(stream):
                    answers.put((function(*arrays), None))
            except Exception as error:  # raised again by the caller
                answers.put((None, error))
            # Hold nothing while waiting: an array may be large.
            del function, arrays, answers


_started: list[_Thread] = []
_lock = threading.Lock()


def _thread() -> _Thread:
    with _lock:
        if not _started:
            _started.append(_Thread())
        return _started[0]
