"""Tasks made of a user's own examples: prompts in a list, or the rows of a file.

A prompt is text, or a conversation: a list of messages.
"""

from __future__ import annotations

import codecs
import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from textenv.errors import ConfigError, ConfigTypeError, DataError
from textenv.messages import with_messages
from textenv.rewards.answers import as_text
from textenv.spaces import has_lone_surrogate
from textenv.tasks.base import Example, Task, check_split, split_of


class Dataset(Task):
    """A task with a finite list of examples; the id of an example is its index.

    Args:
        rows: the examples, each with a ``prompt``, or with a list of ``messages``.
        name: the task's name in logs and errors, such as the name of a file.
        split: None for all rows, or ``"train"`` or ``"test"``. A hash of the prompt decides the
            split of a row; about one row in ten is a test row. Ids are indices into all rows.
        first_row: the number of the first row in error messages.

    Raises:
        DataError: if there are no rows, or a row is not an object with a prompt, or one of its
            messages is wrong; names the row.
    """

    def __init__(
        self,
        rows: Iterable[Mapping[str, Any]],
        name: str = "prompts",
        split: str | None = None,
        first_row: int = 0,
    ):
        if split is not None:
            check_split(split)
        self.name = name
        self.split = split
        self._first_row = first_row
        self._rows = [self._checked(i, row) for i, row in enumerate(rows)]
        if not self._rows:
            raise DataError(f"{name}: no rows; expected at least one example with a prompt")
        self.size = len(self._rows)
        self._met: set[str | Callable[[Example], str | None]] = set()  # what all rows meet
        self._whole: Dataset | None = None  # keeps what `from_path` remembers, for other splits
        self.ids = self._ids_of(split)

    def example(self, example_id: int) -> Example:
        """A copy of the row with this index."""
        if not 0 <= example_id < len(self._rows):
            raise ConfigError(
                f"example_id must be from 0 to {len(self._rows) - 1} in {self.name}, "
                f"got {example_id}"
            )
        return copy.deepcopy(self._rows[example_id])

    def oracle(self, example: Example) -> str:
        """The row's ``answer``; without one, NotImplementedError is raised."""
        if "answer" not in example:
            return super().oracle(example)
        return as_text(example["answer"])

    def require(
        self,
        keys: Sequence[str],
        because: str,
        checks: Sequence[Callable[[Example], str | None]] = (),
    ) -> None:
        """Raise DataError if a row lacks one of ``keys``, or a check says what is wrong with it.

        The first such row is named. The rows are read once for the same keys and checks, however
        many environments share this task.
        """
        keys = [key for key in keys if key not in self._met]
        checks = [check for check in checks if check not in self._met]
        if not keys and not checks:
            return
        for i, row in enumerate(self._rows):
            for key in keys:
                if key not in row:
                    raise DataError(
                        f"{self.place(i)}: key {key!r} is missing, which {because} needs; "
                        f"the row has {', '.join(map(repr, row))}"
                    )
            for check in checks:
                if (why := check(row)) is not None:
                    raise DataError(f"{self.place(i)}: {why}; {because} needs it")
        self._met.update(keys, checks)

    def in_split(self, split: str | None) -> Dataset:
        """The same rows with another split; they are held in memory once.

        Raises:
            ConfigError: for an unknown split.
            DataError: if no row falls in it.
        """
        if split is not None:
            check_split(split)
        other = copy.copy(self)
        other.split, other.ids = split, self._ids_of(split)
        other._met, other._whole = self._met, self
        return other

    def with_max_turns(self, turns: int) -> Task:
        """The same rows with another number of actions in an episode."""
        other = super().with_max_turns(turns)
        if other is not self:
            other._whole = self  # type: ignore[attr-defined]
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> Dataset:
        """The same object: its rows do not change, and they may be many."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        # Without the checks that were met: they may be functions that cannot be pickled.
        return {**self.__dict__, "_met": set(), "_whole": None}

    def _ids_of(self, split: str | None) -> list[int]:
        if split is None:
            return list(range(len(self._rows)))
        ids = [i for i, row in enumerate(self._rows) if split_of(row["prompt"]) == split]
        if not ids:
            raise DataError(
                f"{self.name}: none of its {self.size} rows falls in the {split!r} split; "
                "use all rows instead"
            )
        return ids

    def prompts(self) -> list[str]:
        """The prompts of its examples, in the order of their ids."""
        return [self._rows[i]["prompt"] for i in self.ids]

    def longer_than(self, count: int) -> list[int]:
        """The ids of the examples whose prompt has more than ``count`` bytes."""
        return [i for i in self.ids if len(self._rows[i]["prompt"].encode()) > count]

    def place(self, index: int) -> str:
        """The name of a row in messages."""
        return f"{self.name}, row {index + self._first_row}"

    def _checked(self, index: int, row: Mapping[str, Any]) -> Example:
        if not isinstance(row, Mapping):
            raise DataError(
                f"{self.place(index)}: expected an object with a prompt, got {type(row).__name__}"
            )
        if row.get("messages") is not None or isinstance(row.get("prompt"), (list, tuple)):
            return with_messages(row, self.place(index))
        if "prompt" not in row:
            raise DataError(
                f"{self.place(index)}: key 'prompt' is missing; "
                f"the row has {', '.join(map(repr, row)) or 'no keys'}"
            )
        prompt = row["prompt"]
        if not isinstance(prompt, str):
            raise DataError(
                f"{self.place(index)}: 'prompt' must be text or a list of messages, "
                f"got {type(prompt).__name__}"
            )
        if has_lone_surrogate(prompt):
            raise DataError(f"{self.place(index)}: 'prompt' holds a lone surrogate")
        return dict(row)


def from_prompts(
    prompts: Sequence[str | Sequence[Mapping[str, Any]]],
    examples: Sequence[Mapping[str, Any]] | None,
    split: str | None = None,
) -> Dataset:
    """A dataset of the user's own prompts, each with the keys of its example.

    Raises:
        ConfigTypeError: if ``prompts`` is not a list of text or of conversations.
        ConfigError: if ``examples`` has another length than ``prompts``.
    """
    if isinstance(prompts, str) or not isinstance(prompts, Sequence):
        raise ConfigTypeError(
            f"prompts must be a list of text or of conversations, got {type(prompts).__name__}"
        )
    if prompts and isinstance(prompts[0], Mapping) and "role" in prompts[0]:
        raise ConfigTypeError(
            "prompts is one conversation; it must be a list of them: prompts=[messages]"
        )
    if examples is None:
        examples = [{}] * len(prompts)
    elif len(examples) != len(prompts):
        raise ConfigError(
            f"examples must be as many as prompts: {len(examples)} examples, {len(prompts)} prompts"
        )
    for index, example in enumerate(examples):
        if not isinstance(example, Mapping):
            raise ConfigTypeError(f"example {index} must be a dict, got {type(example).__name__}")
    return Dataset([{**e, "prompt": p} for p, e in zip(prompts, examples)], split=split)


def read_utf8(path: Path) -> bytes:
    """The bytes of a file without the byte-order mark that some programs write before UTF-8.

    Raises:
        DataError: for the mark of another encoding.
    """
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)):
        raise DataError(f"{path}: its byte-order mark is not that of UTF-8; save it as UTF-8")
    return data.removeprefix(codecs.BOM_UTF8)
