"""Compiled functions: what is compiled too often warns, and what is inside a gradient is compiled.

MLX compiles a function anew for each shape of its arguments and keeps all of them: where shapes
never repeat, every call waits for the compiler and memory only grows. `compiled` warns then.

While MLX traces a gradient, a function from `mx.compile` whose arguments are traced runs as the
operations that it was written in, so that an elementwise function of a custom gradient costs three
times what it does elsewhere. What is traced is known to each thread alone. So within `gradients()`
a function made by `piece` is called in a thread of its own, which traces nothing, and gives back
the compiled operations. Nothing is computed there: arrays are lazy. `piece` is only for bodies of
`mx.custom_function` and their vjp, whose insides no gradient looks at.
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

_KEPT = 2**21  # numbers: 8 MB of float32, of each array of each layer
_here = threading.local()  # .tracing: whether this thread is within traced(); .gradients: likewise


def compiled(function: Callable[..., Any], setting: str, most: int = 64) -> Callable[..., Any]:
    """``mx.compile``, which warns once where the shapes of arguments are more than expected.

    Args:
        function: of arrays, and of structures of arrays.
        setting: what keeps the number of shapes small, for the warning.
        most: shapes that are expected at most.
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
    """Around whatever is traced, so that what was made by `piece` is compiled there too."""
    before = getattr(_here, name, False)
    setattr(_here, name, True)
    try:
        yield
    finally:
        setattr(_here, name, before)


@contextmanager
def gradients() -> Iterator[None]:
    """`traced`, around whatever traces a gradient: see `keeps`."""
    with traced(), traced("gradients"):
        yield


def keeps(*arrays: mx.array) -> bool:
    """Whether a forward should keep results as large as these for its backward.

    Where there is a backward to come, and they are small: to keep a large one costs more memory
    than computing it again costs time.
    """
    return getattr(_here, "gradients", False) and sum(array.size for array in arrays) <= _KEPT


def piece(function: Callable[..., Any]) -> Callable[..., Any]:
    """``mx.compile(function, shapeless=True)``, also within `gradients`."""
    inner = mx.compile(function, shapeless=True)

    @wraps(function)
    def call(*arrays: mx.array) -> Any:
        if not getattr(_here, "tracing", False):
            return inner(*arrays)
        return _thread().call(inner, arrays)

    return call


class _Thread:
    """A thread that makes calls for others, and ends with the process."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="untraced", daemon=True).start()

    def call(self, function: Callable[..., Any], arrays: tuple[mx.array, ...]) -> Any:
        """What a function gives there; its operations belong to the caller's stream."""
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
            # Nothing is held while it waits: an array may be large.
            del function, arrays, answers


_started: list[_Thread] = []
_lock = threading.Lock()


def _thread() -> _Thread:
    with _lock:
        if not _started:
            _started.append(_Thread())
        return _started[0]
