"""What a task is: examples by id, a score for a completion, an oracle where one exists."""

from __future__ import annotations

import dataclasses
import functools
import random
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

from textenv.errors import ConfigError
from textenv.tasks.example_random import ExampleRandom, mix

Example = dict[str, Any]
"""One problem. Always holds ``prompt``; ``answer`` and the rest are the task's own."""

SPLITS = ("train", "test")
MOST_LISTED = 20_000  # problems, in both splits together
_TEST_SHARE = 10  # one example in ten belongs to the test split
_idle: list[ExampleRandom] = []  # to be seeded again; a list, so that calls may nest and thread


def split_of(key: str) -> str:
    """The split that an example belongs to, by a hash of what makes it this example."""
    return "test" if zlib.crc32(key.encode()) % _TEST_SHARE == 0 else "train"


class Turn(NamedTuple):
    """What a task says to one action."""

    text: str
    """What follows the action in the transcript."""
    reward: float | None
    """Of this action by the task's own verifier; None where it has none."""
    terminated: bool
    """Whether the episode is over."""


class Episode(ABC):
    """One example being played, where a task has several turns or a state of its own."""

    @abstractmethod
    def step(self, action: str) -> Turn:
        """Answer an action."""

    def close(self) -> None:  # noqa: B027  (most episodes hold nothing)
        """Let go of what the episode holds."""


class _Nothing(Episode):
    """Before the first reset."""

    def step(self, action: str) -> Turn:
        """Never called."""
        raise AssertionError("no episode has begun")


NOTHING = _Nothing()


class Task(ABC):
    """A source of examples with a verifier.

    Attributes:
        name: the name it is made by.
        size: number of examples for a finite source, None for a generated one. Ids of a
            finite source are ``0 .. size - 1``; a generated one takes any integer >= 0.
    """

    name: str
    size: int | None = None
    max_turns: int = 1
    """Actions in an episode; when they are spent the environment truncates it."""
    levels: range | None = None
    """Levels of difficulty, easy ones first; None where it has none."""

    @property
    def level(self) -> int | None:
        """Which of `levels` its examples are of; None where they are of none."""
        return None

    def at_level(self, level: int) -> Task:
        """The task with examples of another difficulty, all else as it is.

        Raises:
            ConfigError: for a task without levels, or a level that it does not have.
        """
        raise ConfigError(f"task {self.name!r} has no levels of difficulty")

    @abstractmethod
    def example(self, example_id: int) -> Example:
        """The example with this id, the same at every call.

        Raises:
            ConfigError: for an id outside the range.
        """

    def examples(self, example_ids: Sequence[int]) -> list[Example]:
        """The examples with these ids."""
        return [self.example(i) for i in example_ids]

    def score(self, example: Example, completion: str) -> float | None:
        """Reward of a completion in [0, 1] by the task's own verifier; None where it has none."""
        return None

    def begin(self, example: Example) -> Episode:
        """Start playing an example; a task of one turn scores the first action."""
        return _OneAnswer(self, example)

    def oracle(self, example: Example) -> str:
        """An answer that scores full marks.

        Raises:
            NotImplementedError: where the task cannot compute one.
        """
        raise NotImplementedError(f"task {self.name!r} has no oracle")


class _OneAnswer(Episode):
    """One action, scored."""

    def __init__(self, task: Task, example: Example):
        self._task = task
        self._example = example

    def step(self, action: str) -> Turn:
        """Score the answer."""
        return Turn("", self._task.score(self._example, action), True)


class GeneratedTask(Task):
    """A task whose examples are drawn by a generator, endlessly, from an id.

    A subclass is a dataclass whose fields are the difficulty, with ``generate`` and ``score``.
    Train and test are disjoint: an example belongs to a split by a hash of ``split_key``,
    and ``example`` draws until one of its own split comes.
    """

    split: str
    knobs: tuple[str, ...] = ()
    """The fields that a level moves, all by as much; a level is the value of the last of them."""

    @property
    def level(self) -> int | None:
        """The value of the last of `knobs`."""
        return getattr(self, self.knobs[-1]) if self.knobs else None

    def at_level(self, level: int) -> Task:
        """The task with its `knobs` moved so that the last has the value ``level``."""
        levels = check_level(self, level)
        by = level - cast(int, self.level)
        moved = {knob: max(levels[0], getattr(self, knob) + by) for knob in self.knobs}
        return dataclasses.replace(cast(Any, self), **moved)

    @abstractmethod
    def generate(self, rng: random.Random) -> Example:
        """Draw one example, of either split."""

    def split_key(self, example: Example) -> str:
        """What makes two examples the same problem (say, 12+30 and 30+12)."""
        return example["prompt"]

    def problems(self) -> Iterable[Example] | None:
        """All examples of both splits, each as often as `generate` draws it, where they are few.

        They are listed once then for all tasks that are equal (so the dataclass is to be frozen),
        and looked up in place of being drawn.
        """
        return None

    @functools.cached_property
    def _listed(self) -> list[Example]:
        return [] if self.problems() is None else _list_problems(self)

    def __getstate__(self) -> dict[str, Any]:
        # The list of problems stays behind: a copy makes it again when it needs it.
        return {key: value for key, value in self.__dict__.items() if key != "_listed"}

    def example(self, example_id: int) -> Example:
        """The example with this id, drawn from a generator seeded by the id alone."""
        if example_id < 0:
            raise ConfigError(f"example_id must be an integer >= 0, got {example_id}")
        if self._listed:
            return self._listed[mix(example_id) * len(self._listed) >> 64].copy()
        try:
            rng = _idle.pop()
        except IndexError:
            rng = ExampleRandom()
        rng.seed(example_id)
        for _ in range(10_000):
            example = self.generate(rng)
            if split_of(self.split_key(example)) == self.split:
                _idle.append(rng)
                return example
        raise ConfigError(
            f"task {self.name!r} with these settings has no example in the {self.split!r} split: "
            "make it harder (more numbers, digits or letters)"
        )

    def examples(self, example_ids: Sequence[int]) -> list[Example]:
        """The examples with these ids."""
        listed = self._listed
        if not listed or min(example_ids) < 0:
            return super().examples(example_ids)
        count = len(listed)
        return [listed[mix(i) * count >> 64].copy() for i in example_ids]

    def oracle(self, example: Example) -> str:
        """The answer that the generator put in the example."""
        return example["answer"]


@functools.lru_cache(maxsize=16)
def _list_problems(task: GeneratedTask) -> list[Example]:
    problems = task.problems() or ()
    return [p for p in problems if split_of(task.split_key(p)) == task.split]


def check_level(task: Task, level: int) -> range:
    """The levels of a task; raise ConfigError where it has none, or not this one."""
    if task.levels is None:
        raise ConfigError(f"task {task.name!r} has no levels of difficulty")
    check_range(f"level of {task.name}", level, task.levels[0], task.levels[-1])
    return task.levels


def check_split(split: str) -> None:
    """Raise ConfigError where ``split`` is not one of `SPLITS`."""
    if split not in SPLITS:
        raise ConfigError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")


def check_range(name: str, value: int, low: int, high: int) -> None:
    """Raise ConfigError where an integer setting lies outside ``low..high``."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{name} must be an integer from {low} to {high}, got {value!r}")
