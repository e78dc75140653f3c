"""Keeps other libraries from changing the process's global random states, and from printing."""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Iterator
from typing import Any

import numpy as np


class Contained:
    """A separate pair of global random states, which is in force within ``with c.inside():``.

    Some libraries seed the global generators of `random` and ``numpy.random``, draw from them, and
    print. Each time the block is entered, the generators have the states that they had at its last
    end. After the block, they have the states from before it, and nothing was printed. Do not use
    it in several threads at once, because the global states belong to the whole process.

    Args:
        seed: first seed of both generators, from 0 to 2**32 - 1.
    """

    def __init__(self, seed: int):
        self._python: Any = random.Random(seed).getstate()
        self._numpy: Any = np.random.RandomState(seed).get_state()

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Exchange the global random states for this object's until the block ends."""
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
