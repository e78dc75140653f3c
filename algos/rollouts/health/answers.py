"""Compares answers that were not right with those that were expected: how near were they?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from textenv.algos.episodes.trajectory import Trajectory
from textenv.rewards.extract import make_extractor
from textenv.tasks import Task

_SHOWN = 60  # characters of a text in a message


class Answer(NamedTuple):
    """One completion, and what was made of it."""

    written: str
    """The completion."""
    extracted: str | None
    """What was taken from it as the answer: the completion itself if nothing was to be taken, and
    None if nothing was found in it."""
    expected: str
    """An answer that scores full marks."""


@dataclass(frozen=True)
class Misses:
    """How near answers were that were not right."""

    of: int
    """How many answers there were."""
    equal: int
    """Answers that are the expected one, although they had no reward."""
    unread: int
    """Answers in which the extraction found nothing."""
    containing: int
    """Other answers that contain the expected one."""
    extract: str | None
    """The kind of extraction that finds the expected answer most often; None if none does."""
    found: int
    """In how many answers it does."""
    nearest: Answer | None
    """The answer to show."""


# Of kinds that find as many, the first one is proposed: it is the most exact.
_KINDS = {
    kind: make_extractor(kind)
    for kind in ("boxed", "tag:answer", "after:####", "last_number", "line:last")
}


def expected_answer(task: Any, trajectory: Trajectory) -> str | None:
    """An answer that scores full marks where a trajectory began; None if nobody knows one."""
    example_id = trajectory.reset_info.get("example_id")
    if not isinstance(task, Task) or task.max_turns > 1 or not isinstance(example_id, int):
        return None
    level = trajectory.reset_info.get("level")
    task = task if level is None else task.at_level(level)
    try:
        return task.oracle(task.example(example_id))
    except NotImplementedError:
        return None


def answer_of(task: Any, trajectory: Trajectory) -> Answer | None:
    """The answer of an episode of one turn; None if no expected one is known."""
    expected = expected_answer(task, trajectory)
    if expected is None or len(trajectory) != 1:
        return None
    written = str(trajectory.actions[0])
    return Answer(written, trajectory.infos[0].get("answer", written), expected)


def misses_of(answers: Sequence[Answer]) -> Misses:
    """How near some wrong answers were."""
    equal = [a for a in answers if a.extracted and a.extracted.strip() == a.expected.strip()]
    others = [a for a in answers if a not in equal]
    containing = [a for a in others if contains(a.written, a.expected)]
    counts = {
        kind: sum(find(a.written) == a.expected.strip() for a in containing)
        for kind, find in _KINDS.items()
    }
    best = max(counts, key=counts.__getitem__)
    unread = sum(a.extracted is None for a in answers)
    nearest = min(equal or containing or answers, key=lambda a: len(a.written), default=None)
    return Misses(
        of=len(answers),
        equal=len(equal),
        unread=unread,
        containing=len(containing),
        extract=best if counts[best] else None,
        found=counts[best],
        nearest=nearest,
    )


def contains(text: str, answer: str) -> bool:
    """Whether an answer stands in a text, not as a part of a longer number or word.

    Example:
        >>> contains("12 + 30 = 42.", "42"), contains("It is 142.", "42")
        (True, False)
    """
    answer = answer.strip()
    before = r"(?<![\w.])" if answer[:1].isalnum() or answer[:1] == "-" else ""
    after = r"(?!\w|[.,]\d)" if answer[-1:].isalnum() else ""
    return bool(answer) and re.search(before + re.escape(answer) + after, text) is not None


def quoted(text: str) -> str:
    r"""A text for a message: in one line, with quotes and escapes, and without its middle if long.

    Example:
        >>> quoted("a\x1b[31m")
        "'a\\x1b[31m'"
    """
    if len(text) > _SHOWN:
        half = _SHOWN // 2 - 2
        text = f"{text[:half]} .. {text[-half:]}"
    return repr(text)


def told(answer: Answer) -> str:
    """An answer in words: what was answered, what was taken from it, what was expected."""
    if answer.extracted is None:
        taken = ", from which nothing was extracted"
    elif answer.extracted == answer.written:
        taken = ""
    else:
        taken = f", from which {quoted(answer.extracted)} was extracted"
    return f"{quoted(answer.written)} was answered{taken}, and {quoted(answer.expected)} expected"
