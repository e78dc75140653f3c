"""Random numbers for examples: a generator that is cheap to seed."""

from __future__ import annotations

import random
from typing import Any

_64_BITS = 2**64 - 1
_STEP = 0x9E3779B97F4A7C15  # between the states of SplitMix64


class ExampleRandom(random.Random):
    """A `random.Random` for few numbers from each of many seeds.

    Python's own fills 624 words at every seed, which takes longer than a whole episode. This one
    takes what is asked for off a large whole number, mixed from the seed and a counter:
    the remainder by ``n`` is the number drawn, the quotient what is left to draw from.

    Making one is as slow as ever; seed one again in place of that.
    """

    def seed(self, a: Any = None, version: int = 2) -> None:  # type: ignore[override]
        """Start anew from an integer; None is 0."""
        self._state, self._pool = a or 0, 0
        self.gauss_next = None

    def getrandbits(self, k: int, /) -> int:
        """A whole number of ``k`` random bits."""
        return self._randbelow(1 << k)

    def random(self) -> float:
        """A number from 0 to 1, 1 excluded."""
        return self._randbelow(1 << 53) / (1 << 53)

    def randint(self, a: int, b: int) -> int:
        """A whole number from ``a`` to ``b``, both included."""
        if a > b:
            raise ValueError(f"randint needs a range with a number in it, got {a} to {b}")
        return a + self._randbelow(b - a + 1)

    def getstate(self) -> tuple[Any, ...]:
        """What `setstate` goes on from."""
        return self._state, self._pool, self.gauss_next

    def setstate(self, state: tuple[Any, ...]) -> None:
        """Go on from a state."""
        self._state, self._pool, self.gauss_next = state

    def _randbelow(self, n: int) -> int:
        # All of random.Random comes down to this. 32 bits more than n needs make the remainder
        # uniform to one part in 2**32.
        pool = self._pool
        while pool < n << 32:
            pool = pool << 64 | mix(self._state)
            self._state += _STEP
        self._pool, value = divmod(pool, n)
        return value


def mix(state: int) -> int:
    """64 bits that look random, from a whole number: SplitMix64's output for a state.

    Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
    """
    state = state + _STEP & _64_BITS
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _64_BITS
    state = (state ^ state >> 27) * 0x94D049BB133111EB & _64_BITS
    return state ^ state >> 31
