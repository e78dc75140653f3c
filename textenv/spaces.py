"""`UnicodeText`, the Gymnasium space of the text observations and actions: any Unicode string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Text

from textenv.errors import ConfigError, ConfigTypeError

_SAMPLE_CHARS = "".join(map(chr, range(32, 127)))
_SAMPLE_LENGTH = 64  # longer random text has no use


class UnicodeText(Text):
    """The space of all strings of Unicode scalar values up to a maximum length.

    `gymnasium.spaces.Text` keeps a list of its characters, which takes a second and a megabyte
    for all of Unicode. This subclass tests membership by a rule instead. A string with a lone
    surrogate is not a member: it cannot be encoded as UTF-8 and so cannot leave the process.

    Args:
        max_length: longest string, in characters.
        min_length: shortest string, in characters.
        seed: seed for `sample`.

    Raises:
        ConfigError: for lengths that no string can have.
    """

    def __init__(
        self,
        max_length: int,
        *,
        min_length: int = 0,
        seed: int | np.random.Generator | None = None,
    ):
        for name, length in (("min_length", min_length), ("max_length", max_length)):
            if isinstance(length, bool) or not isinstance(length, (int, np.integer)) or length < 0:
                raise ConfigError(f"{name} must be an integer >= 0, got {length!r}")
        if min_length > max_length:
            raise ConfigError(
                f"min_length must be at most max_length, got {min_length} and {max_length}"
            )
        super().__init__(max_length, min_length=min_length, charset=_SAMPLE_CHARS, seed=seed)

    def contains(self, x: Any) -> bool:
        """Whether ``x`` is a string with an allowed length and without lone surrogates."""
        return (
            isinstance(x, str)
            and self.min_length <= len(x) <= self.max_length
            and (x.isascii() or not has_lone_surrogate(x))
        )

    def contains_all(self, texts: Sequence[Any]) -> bool:
        """Whether all of ``texts`` are members; faster than one by one if all are ASCII."""
        if {*map(type, texts)} == {str} and "".join(texts).isascii():
            lengths = [*map(len, texts)]
            return self.min_length <= min(lengths) and max(lengths) <= self.max_length
        return all(map(self.contains, texts))

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A random string of printable ASCII characters, at most 64 of them if allowed.

        Raises:
            ConfigTypeError: for a mask or probabilities, which need a list of characters.
        """
        if mask is not None or probability is not None:
            raise ConfigTypeError("UnicodeText.sample takes no mask and no probability")
        longest = min(self.max_length, max(self.min_length, _SAMPLE_LENGTH))
        length = int(self.np_random.integers(self.min_length, longest + 1))
        picks = self.np_random.integers(len(_SAMPLE_CHARS), size=length)
        return "".join(_SAMPLE_CHARS[i] for i in picks)

    def __repr__(self) -> str:
        return f"UnicodeText({self.min_length}, {self.max_length})"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, UnicodeText)
            and self.min_length == other.min_length
            and self.max_length == other.max_length
        )

    __hash__ = None  # type: ignore[assignment]  # like every Gymnasium space: mutable, equal by value

    @property
    def is_np_flattenable(self) -> bool:
        """False: a one-hot array over all Unicode characters would be too large."""
        return False


def has_lone_surrogate(text: str) -> bool:
    """Whether a string cannot be encoded as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
