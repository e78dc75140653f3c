"""Strings that end a completion, found while its tokens are sampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from textenv.errors import ConfigError, ConfigTypeError


class StopStrings:
    """Finds the first of some strings in what tokens say.

    Args:
        decode: gives the text of token ids.
        strings: the strings; none are never found.
    """

    def __init__(self, decode: Callable[[list[int]], str], strings: Sequence[str] = ()):
        self._decode, self._strings = decode, tuple(strings)
        # A token has at least one byte. Some tokens more, since the text of a part may differ at
        # its beginning: from half a character, or from a space that is left out.
        self._tokens = max((len(string.encode()) for string in strings), default=0) + 8
        self._may_end: dict[int, bool] = {}

    def __bool__(self) -> bool:
        return bool(self._strings)

    def end(self, token_ids: Sequence[int]) -> bool:
        """Whether the last of these tokens completes one of the strings."""
        if not self._strings or not self._completes(int(token_ids[-1])):
            return False
        text = self._decode(list(token_ids[-self._tokens :]))
        return any(string in text for string in self._strings)

    def _completes(self, token: int) -> bool:
        """Whether a token may be the last of a string, which most are not: decoding takes time."""
        if token not in self._may_end:
            text = self._decode([token, token])  # a space is left out before the first one
            last = {string[-1] for string in self._strings}
            self._may_end[token] = not text or "\ufffd" in text or any(c in text for c in last)
        return self._may_end[token]

    def cut(self, text: str) -> str:
        """The text before the first of the strings."""
        return text[: min((text.find(s) for s in self._strings if s in text), default=len(text))]


def check_stops(value: object) -> tuple[str, ...]:
    """The strings as a tuple.

    Raises:
        ConfigTypeError: for anything but a list or tuple of strings, such as one string.
        ConfigError: for an empty string.
    """
    if not isinstance(value, (list, tuple)) or not all(isinstance(s, str) for s in value):
        raise ConfigTypeError(f'stop must be a list of strings, such as ["\\n"], got {value!r}')
    if "" in value:
        raise ConfigError(
            f"stop must not hold an empty string, which every text has, got {value!r}"
        )
    return tuple(value)
