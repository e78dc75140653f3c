"""The base classes of tasks: `Task`, `GeneratedTask`, and `Episode` for tasks of several turns.

A task gives examples by id and scores completions. If it can, it also computes a correct answer.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import random
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, cast

from textenv.errors import ConfigError
from textenv.rewards.extract import ExtractSpec
from textenv.tasks.example_random import ExampleRandom, mix

Example = dict[str, Any]
"""One problem. It always has a text ``prompt``; ``answer`` and other keys depend on the task.

If it has ``messages``, its episode is a conversation that begins with them.
"""

SPLITS = ("train", "test")
STYLES = ("plain", "chat")
MOST_LISTED = 20_000  # a task with at most so many problems in both splits lists all of them
_TEST_SHARE = 10  # one example in ten belongs to the test split
_idle: list[
    ExampleRandom
] = []  # generators for reuse; several, as calls may nest or run in threads


def split_of(key: str) -> str:
    """The split of an example, by a hash of ``key``, which identifies the example."""
    return "test" if zlib.crc32(key.encode()) % _TEST_SHARE == 0 else "train"


def draw_seed(example_id: int, split: str, limit: int = 2**32) -> int:
    """The seed of an example of a game that draws everything from a seed, as other libraries' do.

    Args:
        example_id: the example's id, which alone decides the seed.
        split: its split; no seed is in both.
        limit: the seed is below it.

    Raises:
        ConfigError: if the id is negative.
    """
    if example_id < 0:
        raise ConfigError(f"example_id must be an integer >= 0, got {example_id}")
    rng = random.Random(example_id)
    while split_of(str(seed := rng.randrange(limit))) != split:
        pass
    return seed


class Turn(NamedTuple):
    """A task's reply to one action, with the reward of the action."""

    text: str
    """The reply, which follows the action in the transcript."""
    reward: float | None
    """The score of this action by the task's own verifier; None if it has none."""
    terminated: bool
    """Whether the episode is over."""


class Episode(ABC):
    """The state of one example while it is played, for a task of several turns."""

    @abstractmethod
    def step(self, action: str) -> Turn:
        """Take an action, and return the task's reply."""

    def play(self, action: str, read: str | None) -> Turn:
        """Take an action of which the task reads a part.

        Args:
            action: the action as it was written.
            read: what an extractor found in it; None if it found no answer.
        """
        return self.missed() if read is None else self.step(read)

    def missed(self) -> Turn:
        """Reply to an action in which no answer was found; it is never right."""
        said, reward, over = self.step("")
        return Turn(said, None if reward is None else min(reward, 0.0), over)

    def close(self) -> None:  # noqa: B027  (most episodes have nothing to release)
        """Release what the episode holds."""


class _Nothing(Episode):
    """The episode of an environment before its first reset."""

    def step(self, action: str) -> Turn:
        """Raise AssertionError; the environment does not call this."""
        raise AssertionError("no episode has begun")


NOTHING = _Nothing()


class Task(ABC):
    """Base class of all tasks: a source of examples, with a verifier that scores completions.

    Attributes:
        name: the name by which the task is made.
        size: number of examples of a finite source, or None for a generated one. The ids of a
            finite source are ``0 .. size - 1``; a generated one takes any integer >= 0.
    """

    name: str
    size: int | None = None
    max_turns: int = 1
    """Actions in an episode. When they are used up, the environment truncates the episode."""
    verifier_timeout: float | None = None
    """Seconds that one call of the verifier may take, if it can be cut off; else None."""
    levels: range | None = None
    """Levels of difficulty, easy ones first; None if the task has no levels."""
    style: str = "plain"
    """How the prompt asks: ``"plain"``, or ``"chat"``, a question in words that says how to answer.
    A task that can do both has this as a setting."""
    chat_extract: ExtractSpec = "text"
    """What takes the answer out of a completion in style ``"chat"``."""

    @property
    def extract(self) -> ExtractSpec | None:
        """The default of an environment's ``extract=``; None reads completions as they are."""
        return self.chat_extract if self.style == "chat" else None

    @property
    def tools(self) -> Sequence[Callable[..., Any]]:
        """Functions that the policy may call; they run in this process, without a limit of time."""
        return ()

    def with_max_turns(self, turns: int) -> Task:
        """The same task with another number of actions in an episode."""
        if turns == self.max_turns:
            return self
        other = copy.copy(self)
        object.__setattr__(other, "max_turns", turns)  # a task may be a frozen dataclass
        return other

    @property
    def level(self) -> int | None:
        """The level in `levels` of this task's examples; None if they have no level."""
        return None

    def at_level(self, level: int) -> Task:
        """The same task at another level of difficulty.

        Raises:
            ConfigError: if the task has no levels, or not this one.
        """
        raise ConfigError(f"task {self.name!r} has no levels of difficulty")

    def with_timeout(self, seconds: float) -> Task:
        """The same task with another `verifier_timeout`, if its verifier can be cut off."""
        return self

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
        """The task's own reward of a completion, in [0, 1]; None if the task has no verifier."""
        return None

    def is_answer(self, action: str) -> bool:
        """Whether an action is an answer, which ``extract=`` may be applied to.

        Anything else, such as the call of a tool, is read whole.
        """
        return True

    @property
    def no_answer(self) -> float | None:
        """The score of a completion without an answer: 0, or None if the task has no verifier."""
        return None if type(self).score is Task.score else 0.0

    def begin(self, example: Example) -> Episode:
        """Start an episode with an example. By default it scores the first action and ends."""
        return _OneAnswer(self, example)

    def oracle(self, example: Example) -> str:
        """An answer that scores full marks.

        Raises:
            NotImplementedError: if the task cannot compute one.
        """
        raise NotImplementedError(f"task {self.name!r} has no oracle")


class _OneAnswer(Episode):
    """The episode of a task of one turn: it scores the first action and ends."""

    def __init__(self, task: Task, example: Example):
        self._task = task
        self._example = example

    def step(self, action: str) -> Turn:
        """Score the answer."""
        return Turn("", self._task.score(self._example, action), True)

    def missed(self) -> Turn:
        """End the episode without asking the verifier."""
        return Turn("", self._task.no_answer, True)


class GeneratedTask(Task):
    """Base class of tasks whose examples are generated at random, without end, each from its id.

    A subclass is a dataclass whose fields set the difficulty. It implements ``generate`` and
    ``score``. The splits are disjoint: a hash of ``split_key`` decides the split of an example,
    and ``example`` draws until it gets an example of its own split.

    A task with a field ``style: str = "plain"`` implements ``chat_prompt`` too, and sets
    ``chat_extract`` if it needs one. ``generate``, ``problems`` and ``split_key`` know the plain
    prompts alone, so the problems, their ids and the splits are the same in both styles.
    """

    split: str
    knobs: tuple[str, ...] = ()
    """The fields that a level changes, all by the same amount; the last of them is the level."""

    @property
    def level(self) -> int | None:
        """The value of the last field in `knobs`; None if there are none."""
        return getattr(self, self.knobs[-1]) if self.knobs else None

    def at_level(self, level: int) -> Task:
        """The same task with its `knobs` changed so that the last one has the value ``level``."""
        levels = check_level(self, level)
        by = level - cast(int, self.level)
        moved = {knob: max(levels[0], getattr(self, knob) + by) for knob in self.knobs}
        return dataclasses.replace(cast(Any, self), **moved)

    @abstractmethod
    def generate(self, rng: random.Random) -> Example:
        """Draw one example, which may be of either split."""

    def chat_prompt(self, example: Example) -> str:
        """The prompt of an example in style ``"chat"``, which says in words how to answer.

        Args:
            example: the example with its plain prompt.

        Raises:
            NotImplementedError: if the task has one style only.
        """
        raise NotImplementedError(f"task {self.name!r} has no style 'chat'")

    def split_key(self, example: Example) -> str:
        """A text that is the same for examples that are the same problem, as 12+30 and 30+12."""
        return example["prompt"]

    def problems(self) -> Iterable[Example] | None:
        """All examples of both splits if they are few, else None.

        An example must occur in proportion to how often `generate` draws it. The list is made once
        for all tasks that are equal, so the dataclass must be frozen. Examples are then looked up
        instead of drawn, which is faster.
        """
        return None

    @functools.cached_property
    def _listed(self) -> list[Example]:
        return [] if self.problems() is None else _list_problems(self)

    def _asked(self, example: Example) -> Example:
        """An example with a plain prompt, asked in this task's style."""
        if self.style == "chat":
            example["prompt"] = self.chat_prompt(example)
        return example

    def __getstate__(self) -> dict[str, Any]:
        # Without the list of problems: a copy makes it again when it needs it.
        return {key: value for key, value in self.__dict__.items() if key != "_listed"}

    def example(self, example_id: int) -> Example:
        """The example with this id, which is the only seed of the generator that draws it."""
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
                return self._asked(example)
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
    return [task._asked(p) for p in problems if split_of(task.split_key(p)) == task.split]


def check_level(task: Task, level: int) -> range:
    """The levels of a task; raise ConfigError if it has none, or not this one."""
    if task.levels is None:
        raise ConfigError(f"task {task.name!r} has no levels of difficulty")
    check_range(f"level of {task.name}", level, task.levels[0], task.levels[-1])
    return task.levels


def check_split(split: str) -> None:
    """Raise ConfigError if ``split`` is not one of `SPLITS`."""
    if split not in SPLITS:
        raise ConfigError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")


def check_style(style: str) -> None:
    """Raise ConfigError if ``style`` is not one of `STYLES`."""
    if style not in STYLES:
        raise ConfigError(f"style must be one of {', '.join(STYLES)}, got {style!r}")


def check_range(name: str, value: int, low: int, high: int) -> None:
    """Raise ConfigError if a setting is not an integer from ``low`` to ``high``."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{name} must be an integer from {low} to {high}, got {value!r}")
