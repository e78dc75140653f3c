"""A random generator that is fast to seed, because every example is drawn from its own seed."""

from __future__ import annotations

import random
from typing import Any

_64_BITS = 2**64 - 1
_STEP = 0x9E3779B97F4A7C15  # between the states of SplitMix64


class ExampleRandom(random.Random):
    """A `random.Random` for drawing a few numbers from each of many seeds.

    Python's own generator fills 624 words at every seed, which takes longer than a whole episode.
    This one makes a large integer, its pool, from the seed and a counter. To draw a number below
    ``n``, it divides the pool by ``n``: the remainder is the number drawn, and the quotient is the
    new pool.

    To make a generator is as slow as for Python's own. Seed an existing one again instead.
    """

    def seed(self, a: Any = None, version: int = 2) -> None:  # type: ignore[override]
        """Restart from an integer; None is 0."""
        self._state, self._pool = a or 0, 0
        self.gauss_next = None

    def getrandbits(self, k: int, /) -> int:
        """An integer of ``k`` random bits."""
        return self._randbelow(1 << k)

    def random(self) -> float:
        """A number from 0 (included) to 1 (excluded)."""
        return self._randbelow(1 << 53) / (1 << 53)

    def randint(self, a: int, b: int) -> int:
        """An integer from ``a`` to ``b``, both included."""
        if a > b:
            raise ValueError(f"randint needs a range with a number in it, got {a} to {b}")
        return a + self._randbelow(b - a + 1)

    def getstate(self) -> tuple[Any, ...]:
        """The state, for `setstate`."""
        return self._state, self._pool, self.gauss_next

    def setstate(self, state: tuple[Any, ...]) -> None:
        """Continue from a state that `getstate` returned."""
        self._state, self._pool, self.gauss_next = state

    def _randbelow(self, n: int) -> int:
        # All methods of random.Random use this. The pool has at least 32 bits more than n, which
        # makes the remainder uniform to one part in 2**32.
        pool = self._pool
        while pool < n << 32:
            pool = pool << 64 | mix(self._state)
            self._state += _STEP
        self._pool, value = divmod(pool, n)
        return value


def mix(state: int) -> int:
    """64 random-looking bits from an integer: the output of SplitMix64 for this state.

    Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
    """
    state = state + _STEP & _64_BITS
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _64_BITS
    state = (state ^ state >> 27) * 0x94D049BB133111EB & _64_BITS
    return state ^ state >> 31
