"""Reads numbers as people write them: with a currency, a unit, separators, a closing full stop.

Two quantities with different units are never equal. One without a unit equals one with any, because
an answer ``42 km`` may be asked for as ``How many km?``. A unit converts nothing: ``50%`` is 50,
and not 0.5.

What changes the number is not a unit: ``42 million``, ``42k``, ``42x``, ``5!``, ``42 or 43``.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

_LONGEST = 440  # characters; the largest float has 309 digits
_MINUS = "\u2212"
_SIGNS = {"$": "dollar", "€": "euro", "£": "pound", "¥": "yen", "₹": "rupee", "%": "percent"}
_NUMBER = (
    r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
)
# Words of letters, which may have a power, joined by spaces, a slash, a dot or a hyphen.
_WORD = r"[^\W\d_°]+[²³]?"
_UNIT = rf"%|°(?:[CFK]|(?![\w]))|(?:°\s?)?{_WORD}(?:(?:[ /·⋅-]|\s?/\s?){_WORD}){{0,3}}"
_QUANTITY = re.compile(
    rf"(?P<sign>[+-]?)(?P<prefix>[$€£¥₹]?)\s?(?P<second>-?)(?P<number>{_NUMBER})"
    rf"(?:\s?(?P<unit>{_UNIT}))?\.?"
)
_CHANGING = (
    "hundred thousand million billion trillion dozen half halves third thirds quarter quarters "
    "bn mn tn mil times squared cubed factorial to the of or and but nor not no is are was "
    "then than minus plus over point comma if maybe pi"
)
_NOT_UNITS = frozenset(_CHANGING.split())
_SEPARATOR = re.compile(r"([ /·⋅-]+)")
_LETTERS = "ACFJLNVWdghlms"  # single letters that are units; others are variables, or 42k and 42M
_SAME = {"dollars": "dollar", "usd": "dollar", "euros": "euro", "eur": "euro", "pct": "percent"}


class Quantity(NamedTuple):
    """A number with its unit."""

    digits: str
    """The number as it was written, without separators and a plus sign."""
    value: float
    """The number; always finite."""
    unit: str
    """The unit in one spelling; empty if there is none."""


def as_quantity(text: str) -> Quantity | None:
    """The quantity that a text consists of; None if it is anything else."""
    text = _plain(text)
    if len(text) > _LONGEST:
        return None
    found = _QUANTITY.fullmatch(text)
    if found is None or (found["sign"] and found["second"]):
        return None
    if found["second"] and not found["prefix"]:
        return None
    unit = _one_spelling(found["unit"] or "")
    if unit is None or (unit and found["prefix"] and unit != _SIGNS[found["prefix"]]):
        return None
    number = found["number"].replace(",", "")
    negative = "-" in (found["sign"], found["second"])
    value = float(number)
    if not math.isfinite(value):
        return None
    sign = "-" if negative else ""
    return Quantity(
        sign + number, -value if negative else value, unit or _SIGNS.get(found["prefix"], "")
    )


def same_unit(a: Quantity, b: Quantity) -> bool:
    """Whether two quantities have the same unit, or one of them has none."""
    return not a.unit or not b.unit or a.unit == b.unit


def without_stop(text: str) -> str:
    """A text without spaces around it and without one full stop at its end; two stay."""
    text = text.strip()
    return text[:-1].rstrip() if text.endswith(".") and not text.endswith("..") else text


def _plain(text: str) -> str:
    r"""A text without marks of LaTeX and Markdown: ``$42$``, ``42\%``, ``**42**``, ``1{,}000``."""
    text = text.strip()
    for mark in ("**", "$"):
        inside = text[len(mark) : -len(mark)]
        if text.startswith(mark) and text.endswith(mark) and inside and mark not in inside:
            text = inside.strip()
    marks = ("\\%", "%"), ("\\$", "$"), ("{,}", ","), (_MINUS, "-"), ("^2", "²"), ("^3", "³")
    for mark, plain in marks:
        text = text.replace(mark, plain)
    return text


def _one_spelling(unit: str) -> str | None:
    """A unit in one spelling, or None if the words are no unit.

    Words of up to three letters keep their case, since mW and MW differ, and their s.
    """
    if unit in ("", "%", "°"):
        return _SIGNS.get(unit, unit)
    words = _SEPARATOR.split(unit)
    for at in range(0, len(words), 2):  # the others are separators
        word, letters = words[at], words[at].lstrip("°").rstrip("²³")
        low = letters.lower()
        if not letters.isalpha() or low in _NOT_UNITS:  # 2³, 2½; 2 million
            return None
        if len(letters) == 1 and letters not in _LETTERS:
            return None
        if low in _SAME or len(word) > 3:
            word = _SAME.get(low, word.lower())
        words[at] = word[:-1] if len(word) > 3 and word.endswith("s") else word
    return "".join(words).replace(" / ", "/")
