"""Watches memory while a training runs, and gives MLX's memory errors advice.

On a CPU the kernel ends a process that takes too much, and MLX does not check what malloc returns.
Neither leaves time for an error, so a thread watches the memory and warns before it is full.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from textenv.algos.lm.memory.limits import memory_limit, resident
from textenv.algos.runtime import backend
from textenv.errors import OutOfMemoryError

backend.prepare()

import mlx.core as mx  # noqa: E402

NEARLY = 0.95
"""The share of the limit from which memory counts as nearly full."""
_MESSAGES = (  # in MLX's RuntimeErrors, in small letters
    "unable to allocate",  # [malloc], Metal and CUDA
    "[metal::malloc]",  # a buffer that is too large, or one too many
    "insufficient memory",  # a Metal command buffer
    "out of memory",  # what CUDA calls cudaErrorMemoryAllocation
)
_EVERY = 0.1  # seconds between two looks, each of which takes about 0.1 ms


@contextmanager
def watched(what: str, advice: str) -> Iterator[None]:
    """Warn once if memory is nearly full during a block; only on Linux and a CPU.

    Args:
        what: what the block does, for the warning.
        advice: what to do if memory runs out.
    """
    if sys.platform != "linux" or mx.default_device() != mx.cpu:
        yield
        return
    over = threading.Event()

    def look_on() -> None:
        while not over.wait(_EVERY):
            now, held = memory_limit(), resident()
            if now is not None and held > NEARLY * now.size:
                warnings.warn(
                    f"memory is nearly full while {what}: {held / 1e9:.1f} GB of "
                    f"{now.size / 1e9:.1f} GB, {now.what}. If "
                    f"the process is ended now, {advice}",
                    RuntimeWarning,
                    stacklevel=2,
                )
                return

    looking = threading.Thread(target=look_on, name="memory", daemon=True)
    looking.start()
    try:
        yield
    finally:
        over.set()
        looking.join()


@contextmanager
def out_of_memory(what: str, advice: str) -> Iterator[None]:
    """Raise an error with advice if memory runs out in a block; on a CPU, warn shortly before.

    Args:
        what: what the block does, for the messages.
        advice: what to do if memory runs out.

    Raises:
        OutOfMemoryError: in place of what MLX, NumPy or Python raise.
    """
    try:
        with watched(what, advice):
            yield
    except OutOfMemoryError:
        raise
    except MemoryError as error:
        raise OutOfMemoryError(f"out of memory while {what}: {advice}") from error
    except RuntimeError as error:
        if not any(message in str(error).lower() for message in _MESSAGES):
            raise
        raise OutOfMemoryError(f"out of memory while {what}: {advice}") from error
