r"""Takes the answer out of a completion, as ``extract=`` of an environment asks for.

| extractor | the answer |
|---|---|
| ``last_number`` | the last number, without thousands separators and currency signs: ``-1200.5`` |
| ``boxed`` | what stands in the last ``\boxed{...}`` |
| ``tag:answer`` | what stands in the last ``<answer>...</answer>``; any other name of a tag |
| ``after:####`` | the line after the last ``####``; any other marker |
| ``line:last`` | the last line that is not blank |
| ``regex:PATTERN`` | the last match of the pattern: its first group, or all of it without groups |
| ``text`` | everything |

Thinking is taken off first (`strip_thinking`), for a function of one's own too. An answer has no
spaces around it. If nothing was found, or what was found is blank, there is no answer (None), and
that is wrong.

A pattern of ``regex:`` sees the last 16,384 characters only, because some patterns take a time that
grows with a power of the length. One with nested repeats, such as ``(a+)+b``, can take extremely
long all the same: avoid those.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from textenv.errors import ConfigError, ConfigTypeError, RewardError, unknown

ExtractSpec = str | Callable[[str], "str | None"]
"""The name of an extractor, or a function of the text that returns the answer or None."""

KNOWN = ("last_number", "boxed", "tag:NAME", "after:MARKER", "line:last", "regex:PATTERN", "text")
MOST_SEARCHED = 2**14  # characters that a pattern of `regex:` sees, from the end

_OPENS, _CLOSES = "<think>", "</think>"
_BOXED = r"\boxed{"
# A letter before a number makes it part of a name (m2); a digit before it, part of another number.
# A sign belongs to a number if no operand stands before it, which tells -5 from 12-5.
_UNSIGNED = (
    r"(?:(?<![0-9],)[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?"
    r"|[0-9]+(?:\.[0-9]+)?"
    r"|(?<![0-9.])\.[0-9]+)"
    r"(?:[eE][+-]?[0-9]+(?![0-9A-Za-z]))?"
)
_NUMBER = re.compile(
    r"(?<![A-Za-z0-9])(?<![0-9][./])"
    r"((?:(?<![)\]}])[-+\u2212\u2013])?)(?:[$€£¥]([-\u2212]?))?"
    rf"({_UNSIGNED}(?:/[0-9]+(?![0-9/]))?)"
)


def strip_thinking(text: str) -> str | None:
    """What follows the last ``</think>``; None if a ``<think>`` has not been closed.

    A text without thinking is returned as it is.
    """
    text = text.rpartition(_CLOSES)[2]
    return None if _OPENS in text else text


class Extractor:
    """Takes the answer out of a completion; `make_extractor` makes it.

    Args:
        name: what error messages call it.
        pick: the answer in a text without thinking, or None.
    """

    def __init__(self, name: str, pick: Callable[[str], Any]):
        self._name, self._pick = name, pick

    def __call__(self, completion: str) -> str | None:
        """The answer of a completion; None if it has none, or its thinking is not finished.

        Raises:
            RewardError: if a function of the user's own fails, or returns something other than
                text or None.
        """
        text = strip_thinking(completion)
        return None if text is None else self._picked(text)

    def read(self, action: str, is_answer: Callable[[str], bool]) -> tuple[str | None, str | None]:
        """What a task is to read of an action, and the answer in it.

        Args:
            action: the action as it was written.
            is_answer: whether an action is an answer; anything else, such as the call of a tool,
                is read whole, and has no answer.

        Returns:
            The text to read, and the answer; None for what is not there.
        """
        text = strip_thinking(action)
        if text is None:
            return None, None
        if not is_answer(text):
            return text, None
        answer = self._picked(text)
        return answer, answer

    def _picked(self, text: str) -> str | None:
        try:
            answer = self._pick(text)
        except Exception as error:  # it may be the user's code, which may raise anything
            raise RewardError(
                f"extract function {self._name!r} raised {type(error).__name__}: {error} "
                f"(completion {text[-60:]!r})"
            ) from error
        if answer is None or (isinstance(answer, str) and not answer.strip()):
            return None
        if not isinstance(answer, str):
            raise RewardError(
                f"extract function {self._name!r} returned {answer!r:.60} "
                f"({type(answer).__name__}); expected text or None"
            )
        return answer.strip()


def make_extractor(spec: ExtractSpec) -> Extractor:
    """Make an extractor by its name, or of a function.

    Raises:
        ConfigError: for an unknown name, or a pattern that is not a regular expression.
        ConfigTypeError: for something that is neither text nor a function.
    """
    if isinstance(spec, Extractor):
        return spec
    if callable(spec):
        return Extractor(getattr(spec, "__name__", type(spec).__name__), spec)
    if not isinstance(spec, str):
        raise ConfigTypeError(
            f"extract must be the name of an extractor or a function, got {type(spec).__name__}"
        )
    kind, colon, rest = spec.partition(":")
    if spec in _PLAIN:
        return Extractor(spec, _PLAIN[spec])
    if not colon or kind not in _WITH_SETTING:
        raise ConfigError(unknown("extractor", spec, KNOWN))
    if not rest:
        known = next(name for name in KNOWN if name.startswith(f"{kind}:"))
        raise ConfigError(f"extract={spec!r} needs something after the colon: {known}")
    return Extractor(spec, _WITH_SETTING[kind](rest))


def last_number(text: str) -> str | None:
    """The last number of a text, as Python writes it; None if there is none.

    Thousands separators, a plus sign and signs of currencies are left out. A minus sign may be
    U+2212 or an en dash. A fraction such as ``3/4`` is a number, and none of its parts is.
    """
    found = _last(_NUMBER.finditer(text.replace("{,}", ",")))
    if found is None:
        return None
    before, after, number = found.groups()
    negative = f"{before}{after or ''}" not in ("", "+")
    return f"{'-' if negative else ''}{number.replace(',', '')}"


def boxed(text: str) -> str | None:
    r"""What stands in the last ``\boxed{...}``; None if there is none, or it is not closed."""
    start = text.rfind(_BOXED)
    if start < 0:
        return None
    start += len(_BOXED)
    depth, escaped = 1, False
    for at in range(start, len(text)):
        letter = text[at]
        if escaped:
            escaped = False
        elif letter == "\\":
            escaped = True
        elif letter == "{":
            depth += 1
        elif letter == "}":
            depth -= 1
            if not depth:
                return text[start:at]
    return None


class InTag:
    """Takes what stands in the last ``<name>...</name>``; None if the last one is not closed."""

    def __init__(self, name: str):
        self._opening, self._closing = f"<{name}>", f"</{name}>"

    def __call__(self, text: str) -> str | None:
        """What stands in the last tag of the text."""
        before, closing, after = text.rpartition(self._closing)
        if not closing or self._opening in after:
            return None
        _, opening, inside = before.rpartition(self._opening)
        return inside if opening else None


class _After:
    def __init__(self, marker: str):
        self._marker = marker

    def __call__(self, text: str) -> str | None:
        _, marker, after = text.rpartition(self._marker)
        return after.strip().partition("\n")[0] if marker else None


class _Match:
    def __init__(self, pattern: str):
        try:
            self._pattern = re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise ConfigError(
                f"extract={f'regex:{pattern}'!r:.80}: not a regular expression: {error}"
            ) from error

    def __call__(self, text: str) -> str | None:
        found = _last(self._pattern.finditer(text[-MOST_SEARCHED:]))
        if found is None:
            return None
        return found.group(1) if self._pattern.groups else found.group()


def _last(matches: Iterator[re.Match[str]]) -> re.Match[str] | None:
    return next(iter(deque(matches, maxlen=1)), None)


def _line(which: str) -> Callable[[str], str | None]:
    if which != "last":
        raise ConfigError(unknown("extractor", f"line:{which}", KNOWN))
    return _last_line


def _last_line(text: str) -> str | None:
    return text.rstrip().rpartition("\n")[2]


def _all(text: str) -> str:
    return text


_PLAIN: dict[str, Callable[[str], str | None]] = {
    "last_number": last_number,
    "boxed": boxed,
    "text": _all,
}
_WITH_SETTING: dict[str, Callable[[str], Callable[[str], str | None]]] = {
    "tag": InTag,
    "after": _After,
    "line": _line,
    "regex": _Match,
}
