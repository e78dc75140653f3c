"""Reads rows of prompts and answers, and turns them into the tokens of a policy that wrote them.

A row is one of these:

- ``{"prompt", "completion"}`` or ``{"prompt", "answer"}``. The prompt is text or a list of
  messages, the answer is text, a number, or a list of messages that begins and ends with the
  assistant's.
- ``{"messages"}`` that end with an answer: every message of the assistant is trained on.
- ``{"messages", "answer"}`` (or ``completion``), where the messages end before the answer.

A row may have several of the keys ``completion``, ``solution`` and ``answer``. The first of them is
trained on: an ``answer`` may be the final number alone, as in GSM8K. ``tools`` are the JSON schemas
that the chat template shows. The prompt is encoded as the policy encodes it, and each answer as the
policy would have to write it, up to the token that ends it. What stands between two answers is read
and not trained on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from textenv.algos.episodes.trajectory import Trajectory
from textenv.algos.lm.generation.chat import ChatFormat
from textenv.conversation import Opening
from textenv.errors import ConfigTypeError, DataError
from textenv.messages import Message, check, replies, transcript, with_messages
from textenv.rewards.answers import as_text, why_missing
from textenv.spaces import has_lone_surrogate
from textenv.tasks.base import split_of
from textenv.tasks.dataset_files import read_examples
from textenv.tools.calls import with_calls

_ANSWERS = ("completion", "solution", "answer")


@dataclass(frozen=True)
class Rows:
    """Rows, and what each is called in messages."""

    places: Sequence[str]
    rows: Sequence[Any]

    @classmethod
    def of(cls, rows: Any, name: str) -> Rows:
        """Rows from a file or a list.

        Raises:
            ConfigTypeError: for anything else.
        """
        if isinstance(rows, Rows):
            return rows
        if isinstance(rows, (str, Path)):
            return read_rows(rows)
        if not isinstance(rows, Sequence):
            raise ConfigTypeError(f"{name} must be a file or a list, got {type(rows).__name__}")
        return cls([f"{name}, row {number}" for number in range(len(rows))], rows)

    def __len__(self) -> int:
        return len(self.rows)

    def some(self, numbers: Iterable[int]) -> Rows:
        """Some of the rows."""
        numbers = list(numbers)
        return Rows([self.places[i] for i in numbers], [self.rows[i] for i in numbers])

    def split(self) -> tuple[Rows, Rows]:
        """The rows to train on and those to hold out, as the splits of a `Dataset` have them.

        Raises:
            DataError: for a row that is of no known kind; names it.
        """
        sides: dict[str, list[int]] = {"train": [], "test": []}
        for number, (place, row) in enumerate(zip(self.places, self.rows)):
            sides[split_of(_prompt_of(row, place))].append(number)
        return self.some(sides["train"]), self.some(sides["test"])


class Conversation(NamedTuple):
    """The messages of a row, and which of them are trained on."""

    messages: list[Message]
    answers: list[int]
    """The places of the messages that are trained on, ascending."""
    prompt: str | None
    """The prompt if the row has it as plain text, which may be rendered already."""
    tools: Sequence[Any] = ()
    """The JSON schemas of the tools that the assistant may call."""


class Limits(NamedTuple):
    """How long a row may be, in tokens."""

    longest: int | None
    """Longer rows are cut to this; None: they are refused."""
    context: int | None
    """What the model can read at most; None: it does not say."""


def conversation_of(row: Any, place: str, opening: Opening | None = None) -> Conversation:
    """The messages of a row.

    Args:
        row: the row, of one of the kinds above.
        place: what the row is called in messages.
        opening: what comes before the messages of each row.

    Raises:
        DataError: if there is no prompt or no answer, or it is of another kind; names the place.
    """
    if not isinstance(row, Mapping):
        raise DataError(f"{place}: expected an object with a prompt, got {type(row).__name__}")
    before, prompt = _before(row, place)
    ended = before[-1]["role"] == "assistant"
    if ended and row.get("messages") is None:
        raise DataError(f"{place}: 'prompt' ends with an answer; give the whole as 'messages'")
    after = [] if ended else _after(row, place)
    messages = [*before, *after]
    first = 0 if ended else len(before)
    answers = [i for i in range(first, len(messages)) if messages[i]["role"] == "assistant"]
    if answers[0] == 0:
        raise DataError(f"{place}: the conversation begins with an answer; expected a prompt first")
    tools = row.get("tools") or []
    if not isinstance(tools, list):
        raise DataError(f"{place}: 'tools' must be a list of schemas, got {type(tools).__name__}")
    if opening is not None and opening.always:
        count, prompt = len(messages), None
        messages = opening.before(messages)
        answers = [i + len(messages) - count for i in answers]
    return Conversation(messages, answers, prompt, tools)


def encode(conversation: Conversation, chat: ChatFormat) -> Trajectory:
    """A conversation as a policy would have recorded it, its answers under the mask.

    Without a chat template it is a plain transcript, as environments show it.

    Raises:
        DataError: if the chat template does not take the messages.
    """
    messages, answers, prompt, tools = conversation
    plain = prompt is not None and len(messages) == 2 and not tools

    def up_to(place: int) -> list[Message] | None:
        return None if plain else messages[:place]

    text = prompt if prompt and plain else transcript(messages[: answers[0]], tools)
    prompt_ids = chat.begin(text, up_to(answers[0]), tools)
    if not prompt_ids:
        raise DataError("the prompt is empty, and this model has no token to begin with")
    token_ids: list[int] = []
    mask: list[int] = []
    so_far, last = text, -1
    for place in answers:
        if token_ids:
            said = replies(messages[last + 1 : place], False)
            context = [*prompt_ids, *token_ids]
            between = chat.go_on(context, said, up_to(place), tools=tools)[len(context) :]
            so_far, token_ids = so_far + said, [*token_ids, *between]
            mask += [0] * len(between)
        own = chat.answer(messages[place], so_far, up_to(place), tools)
        so_far, token_ids = so_far + with_calls(messages[place]), [*token_ids, *own]
        mask += [1] * len(own)
        last = place
    return Trajectory(
        rewards=[1.0],
        prompt=text,
        prompt_ids=prompt_ids,
        token_ids=token_ids,
        token_mask=mask,
        token_logprobs=[0.0] * len(token_ids),
        completion_truncated=False,
    )


def fit(trajectory: Trajectory, limits: Limits) -> Trajectory | None:
    """A trajectory that is not too long: as it is, cut, or None if nothing of it is trained on.

    Raises:
        DataError: if it is longer than the model's context and rows are not cut.
    """
    prompt, count = len(trajectory.prompt_ids or ()), len(trajectory.token_ids or ())
    if limits.longest is None:
        if limits.context is not None and prompt + count > limits.context:
            raise DataError(
                f"a prompt of {prompt} tokens and an answer of {count} exceed the model's context "
                f"of {limits.context} tokens: leave the row out, or set max_length, which cuts"
            )
        return trajectory
    if prompt + count <= limits.longest:
        return trajectory
    mask = (trajectory.token_mask or [])[: max(0, limits.longest - prompt)]
    while mask and not mask[-1]:
        mask.pop()
    if not mask:
        return None
    trajectory.token_ids = (trajectory.token_ids or [])[: len(mask)]
    trajectory.token_mask, trajectory.token_logprobs = mask, [0.0] * len(mask)
    trajectory.completion_truncated = True
    return trajectory


def encode_rows(
    rows: Rows, chat: ChatFormat, limits: Limits, opening: Opening | None = None
) -> list[Trajectory | None]:
    """The trajectory of each row, None for those that `fit` leaves nothing of.

    Args:
        rows: rows of the kinds above.
        chat: the format of the policy that is trained.
        limits: how long a row may be.
        opening: what comes before the messages of each row.

    Raises:
        DataError: for the first row that cannot be trained on; names it.
    """
    encoded = []
    for place, row in zip(rows.places, rows.rows):
        conversation = conversation_of(row, place, opening)
        try:
            encoded.append(fit(encode(conversation, chat), limits))
        except DataError as error:
            raise DataError(f"{place}: {error}") from error
    return encoded


def read_rows(
    path: str | Path, columns: Mapping[str, str] | None = None, limit: int | None = None
) -> Rows:
    """The rows of a file, or of a Hugging Face dataset's folder.

    Args:
        path: the file or folder; of a folder with splits, the split ``train``.
        columns: new names for some columns.
        limit: read only so many rows, the first ones.

    Raises:
        MissingFileError: if there is no such file or folder.
        DataError: if it cannot be read; names the file and the row, counted from 1.
    """
    split = "train" if (Path(path) / "dataset_dict.json").is_file() else None
    rows = read_examples(path, split, columns, limit)
    return Rows([f"{path}, row {number}" for number in range(1, len(rows) + 1)], rows)


def _before(row: Mapping[str, Any], place: str) -> tuple[list[Message], str | None]:
    """The messages of a row's prompt, and the prompt if it is text."""
    prompt = row.get("prompt")
    if isinstance(prompt, str) and row.get("messages") is None:
        _check_text(prompt, f"{place}: 'prompt'")
        return [{"role": "user", "content": prompt}], prompt
    for key in ("messages", "prompt"):
        if row.get(key) is not None:
            return check(row[key], f"{place}, {key!r}"), None
    raise DataError(
        f"{place}: key 'prompt' or 'messages' is missing; "
        f"the row has {', '.join(map(repr, row)) or 'no keys'}"
    )


def _after(row: Mapping[str, Any], place: str) -> list[Message]:
    """The messages of a row's answer."""
    key = next((key for key in _ANSWERS if row.get(key) is not None), None)
    if key is None:
        raise DataError(
            f"{place}: there is no answer: expected 'completion' or 'answer', or 'messages' that "
            f"end with one; the row has {', '.join(map(repr, row))}"
        )
    value = row[key]
    if isinstance(value, list):
        messages = check(value, f"{place}, {key!r}")
        for message in (messages[0], messages[-1]):
            if message["role"] != "assistant":
                raise DataError(
                    f"{place}: {key!r} must begin and end with the assistant's message, and has "
                    f"one of the role {message['role']!r} there"
                )
        return messages
    why = why_missing({"answer": value})
    if why is not None:
        raise DataError(f"{place}: {why.replace('answer', key, 1)}")
    text = value if isinstance(value, str) else as_text(value)
    _check_text(text, f"{place}: {key!r}")
    return [{"role": "assistant", "content": text}]


def _prompt_of(row: Any, place: str) -> str:
    """The prompt that a `Dataset` of this row has, by which it is split."""
    conversation_of(row, place)
    text = row.get("prompt")
    if isinstance(text, str) and row.get("messages") is None:
        return text
    return with_messages(row, place)["prompt"]


def _check_text(value: str, what: str) -> None:
    if has_lone_surrogate(value):
        raise DataError(f"{what} holds a lone surrogate")
