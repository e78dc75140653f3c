"""Reads rows of prompts and answers, and turns them into the tokens of a policy that wrote them.

A row is one of these:

- ``{"prompt", "completion"}`` or ``{"prompt", "answer"}``. The prompt is text or a list of
  messages, the answer is text, a number, or a list of messages that begins and ends with the
  assistant's. If a row has both keys, its completion is trained on.
- ``{"messages"}`` that end with an answer: every message of the assistant is trained on.
- ``{"messages", "answer"}`` (or ``completion``), where the messages end before the answer.

A message is ``{"role", "content"}``. The prompt is encoded as the policy encodes it, and each
answer as the policy would have to write it, up to the token that ends it. What stands between two
answers is read and not trained on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from textenv.algos.episodes.trajectory import Trajectory
from textenv.algos.lm.generation.chat import ChatFormat
from textenv.errors import ConfigTypeError, DataError
from textenv.rewards.answers import as_text, why_missing
from textenv.spaces import has_lone_surrogate
from textenv.tasks.base import split_of
from textenv.tasks.dataset_files import rows_of

Message = Mapping[str, Any]
_ANSWERS = ("completion", "answer")


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
            sides[split_of(prompt_of(row, place))].append(number)
        return self.some(sides["train"]), self.some(sides["test"])


class Conversation(NamedTuple):
    """The messages of a row, and which of them are trained on."""

    messages: list[Message]
    answers: list[int]
    """The places of the messages that are trained on, ascending."""
    prompt: str | None
    """The prompt if the row has it as plain text, which may be rendered already."""


class Limits(NamedTuple):
    """How long a row may be, in tokens."""

    longest: int | None
    """Longer rows are cut to this; None: they are refused."""
    context: int | None
    """What the model can read at most; None: it does not say."""


def conversation_of(row: Any, place: str) -> Conversation:
    """The messages of a row.

    Args:
        row: the row, of one of the kinds above.
        place: what the row is called in messages.

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
    first = len(before) if after else 0
    messages = [*before, *after]
    answers = [i for i in range(first, len(messages)) if messages[i]["role"] == "assistant"]
    if answers[0] == 0:
        raise DataError(f"{place}: the conversation begins with an answer; expected a prompt first")
    return Conversation(messages, answers, prompt)


def encode(conversation: Conversation, chat: ChatFormat) -> Trajectory:
    """A conversation as a policy would have recorded it, its answers under the mask.

    Raises:
        DataError: if the chat template does not take the messages, or there is none and the
            conversation is more than a prompt and an answer.
    """
    messages, answers = conversation.messages, conversation.answers
    text, whole = conversation.prompt, None
    if text is None or len(messages) > 2:
        if not chat.templated:
            raise DataError(
                "a conversation of several messages needs a chat template; without one, give "
                "'prompt' and 'answer' as text"
            )
        text, whole = text or "", messages
    prompt_ids = chat.begin(text, whole and whole[: answers[0]])
    if not prompt_ids:
        raise DataError("the prompt is empty, and this model has no token to begin with")
    token_ids: list[int] = []
    mask: list[int] = []
    for place in answers:
        if token_ids:
            context = [*prompt_ids, *token_ids]
            between = chat.go_on(context, "", messages[:place])[len(context) :]
            token_ids += between
            mask += [0] * len(between)
        own = chat.answer(messages[place], text, whole and whole[:place])
        token_ids += own
        mask += [1] * len(own)
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


def encode_rows(rows: Rows, chat: ChatFormat, limits: Limits) -> list[Trajectory | None]:
    """The trajectory of each row, None for those that `fit` leaves nothing of.

    Args:
        rows: rows of the kinds above.
        chat: the format of the policy that is trained.
        limits: how long a row may be.

    Raises:
        DataError: for the first row that cannot be trained on; names it.
    """
    encoded = []
    for place, row in zip(rows.places, rows.rows):
        conversation = conversation_of(row, place)
        try:
            encoded.append(fit(encode(conversation, chat), limits))
        except DataError as error:
            raise DataError(f"{place}: {error}") from error
    return encoded


def prompt_of(row: Mapping[str, Any], place: str) -> str:
    """The text of what comes before the first answer, by which rows are split."""
    messages, answers, prompt = conversation_of(row, place)
    before = messages[: answers[0]]
    return before[0]["content"] if prompt is not None or len(before) == 1 else repr(before)


def read_rows(path: str | Path) -> Rows:
    """The rows of a file, or of a Hugging Face dataset's folder.

    Raises:
        MissingFileError: if there is no such file or folder.
        DataError: if it cannot be read; names the file and the row, counted from 1.
    """
    rows = list(rows_of(path))
    return Rows([f"{path}, row {number}" for number in range(1, len(rows) + 1)], rows)


def _before(row: Mapping[str, Any], place: str) -> tuple[list[Message], str | None]:
    """The messages of a row's prompt, and the prompt if it is text."""
    for key in ("messages", "prompt"):
        value = row.get(key)
        if isinstance(value, str) and key == "prompt":
            _check_text(value, f"{place}: 'prompt'")
            return [{"role": "user", "content": value}], value
        if value is not None:
            return _messages(value, f"{place}: {key!r}"), None
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
        messages = _messages(value, f"{place}: {key!r}")
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


def _messages(value: Any, place: str) -> list[Message]:
    """Check a list of messages."""
    if not isinstance(value, list) or not value:
        raise DataError(
            f"{place} must be a list of messages {{'role', 'content'}}, got {value!r:.60}"
        )
    for number, message in enumerate(value):
        what = f"{place}, message {number}"
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise DataError(f"{what}: expected {{'role', 'content'}}, got {message!r:.60}")
        _check_text(message.get("content"), f"{what}: 'content'")
    return [dict(message) for message in value]


def _check_text(value: Any, what: str) -> None:
    if not isinstance(value, str):
        raise DataError(f"{what} must be text, got {type(value).__name__}")
    if has_lone_surrogate(value):
        raise DataError(f"{what} holds a lone surrogate")
