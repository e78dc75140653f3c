"""What other libraries do to the whole process, kept from it: random states and printing."""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Iterator
from typing import Any

import numpy as np


class Contained:
    """Global random states of one's own, in force only within ``with contained.inside()``.

    Some libraries seed and draw from the global generators of `random` and ``numpy.random``, and
    print as they go. Inside they find the states that they left the last time, and outside nobody
    sees that they were there. Not for several threads at once: the states are the process's.

    Args:
        seed: what both generators are first seeded with, from 0 to 2**32 - 1.
    """

    def __init__(self, seed: int):
        self._python: Any = random.Random(seed).getstate()
        self._numpy: Any = np.random.RandomState(seed).get_state()

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Swap the states in, and out again at the end."""
        outside = random.getstate(), np.random.get_state()  # noqa: NPY002
        random.setstate(self._python)
        np.random.set_state(self._numpy)  # noqa: NPY002
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                yield
        finally:
            self._python, self._numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
            random.setstate(outside[0])
            np.random.set_state(outside[1])  # noqa: NPY002
