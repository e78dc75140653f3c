"""Episodes that are conversations: what they begin with, and the messages as they go on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from textenv.errors import ConfigTypeError, DataError, MissingFileError
from textenv.messages import Message, check, replies, transcript, with_messages
from textenv.rewards.answers import as_text, why_missing
from textenv.tasks.base import Episode, Example, Task, Turn
from textenv.tasks.dataset import Dataset, read_utf8
from textenv.tools import Result, Tools
from textenv.tools.calls import Call, without_calls

DEFAULT_TURNS = 4
"""Actions in an episode with tools, if neither ``max_turns`` nor the task says how many."""


class Opening:
    """What an environment puts before its conversations, and the tools that it offers in them.

    Args:
        system_prompt: a system message; ``@FILE`` is the text of a file.
        few_shot: rows of ``prompt`` and ``answer``, shown as messages of user and assistant.
        tools: the tools; None for none.

    Attributes:
        always: whether all episodes are conversations; else those of examples with ``messages``.

    Raises:
        ConfigTypeError: for an argument of another type.
        DataError: for a row that is wrong; names it.
        MissingFileError: if there is no such file.
    """

    def __init__(
        self,
        system_prompt: str | None = None,
        few_shot: Sequence[Mapping[str, Any]] | None = None,
        tools: Tools | None = None,
    ):
        self.tools = tools
        self._system = None if system_prompt is None else _system(system_prompt)
        self._shown = [] if few_shot is None else _shown(few_shot)
        self.always = self._system is not None or bool(self._shown) or tools is not None

    def begin(self, task: Task, example: Example, most_turns: int) -> tuple[Example, Conversation]:
        """Start the conversation of an example.

        Args:
            task: gives the example, and replies to what is no call of a tool.
            example: as the task has it.
            most_turns: actions in an episode.

        Returns:
            The example with the ``messages`` and the ``prompt`` that are shown, and its episode.

        Raises:
            DataError: for wrong messages of a task; those of a dataset were checked before.
        """
        messages = example.get("messages") or [{"role": "user", "content": example["prompt"]}]
        if not isinstance(task, Dataset):
            place = f"an example of task {task.name!r}, 'messages'"
            messages = check(messages, place)
            if messages[-1]["role"] == "assistant":
                raise DataError(
                    f"{place}: the last one is the assistant's, which the policy writes"
                )
        begun = self.before(messages)
        prompt = transcript(begun, self.tools.schemas if self.tools else ())
        episode = Conversation(task, example, begun, self.tools, most_turns)
        return {**example, "prompt": prompt, "messages": _copies(begun)}, episode

    def before(self, messages: Sequence[Message]) -> list[Message]:
        """Copies of messages, with the system message and the solved examples before them.

        If the messages begin with a system message of their own, both become one.
        """
        system = [] if self._system is None else [self._system]
        if messages[0]["role"] == "system":
            system.append(messages[0]["content"])
            messages = messages[1:]
        first = [{"role": "system", "content": "\n\n".join(system)}] if system else []
        return _copies([*first, *self._shown, *messages])


class Conversation(Episode):
    """An episode that keeps the messages, and runs the tools that are called in an answer.

    Args:
        task: replies to answers without a call.
        example: as the task has it.
        messages: those before the first answer.
        tools: the tools; None for none.
        most_turns: actions in the episode. A call in the last of them is not made.

    Attributes:
        pending: whether the last action called tools, and the episode goes on with their results.
    """

    pending = False

    def __init__(
        self,
        task: Task,
        example: Example,
        messages: Sequence[Message],
        tools: Tools | None = None,
        most_turns: int = 1,
    ):
        self._task = task
        self._episode = task.begin(example)
        self._messages = list(messages)
        self._tools = tools
        self._left = most_turns
        self._ids = 0  # of calls so far
        self._counts = dict.fromkeys(_COUNTS, 0)

    def step(self, action: str) -> Turn:
        """Run the tools that an answer calls; an answer without a call goes to the task."""
        return self._take(action, self._episode.step, action)

    def play(self, action: str, read: str | None) -> Turn:
        """Do as `step` does; the task reads only a part of an answer."""
        return self._take(action, self._episode.play, action, read)

    def is_answer(self, action: str) -> bool:
        """Whether an action is an answer, and not a call of a tool or of the task's own."""
        calls = self._tools is not None and bool(self._tools.read(action))
        return not calls and self._task.is_answer(action)

    def _take(self, action: str, reply: Callable[..., Turn], *read: str | None) -> Turn:
        calls = self._tools.read(action) if self._tools else []
        self._left -= 1
        last = self._left < 1
        self.pending = bool(calls) and not last
        if calls:
            ids = [f"call{self._ids + i:05d}" for i in range(len(calls))]
            self._ids += len(calls)
            self._messages.append(_calling(action, calls, ids))
            results = [] if last else [self._tools.run(call) for call in calls]  # type: ignore[union-attr]
            new = [_result(*row) for row in zip(calls, ids, results)]
            self._count(calls, results)
            score, over = self._task.no_answer, False
        else:
            said, score, over = reply(*read)
            self._messages.append({"role": "assistant", "content": action})
            said = said.strip()
            new = [{"role": "user", "content": said}] if said or not (over or last) else []
            self._count(calls, [])
        self._messages += new
        return Turn(replies(new, over or last), score, over)

    def awaits_tools(self, action: str) -> bool:
        """Whether the next `step` would run tools and go on, if it got this action."""
        return self._tools is not None and self._left > 1 and bool(self._tools.read(action))

    def opening_info(self) -> dict[str, Any]:
        """What the info of a reset says of the conversation: copies of its messages and tools."""
        info: dict[str, Any] = {"messages": _copies(self._messages)}
        if self._tools is not None:
            info["tools"] = copy.deepcopy(self._tools.schemas)
        return info

    def info(self) -> dict[str, Any]:
        """What the info of a step says: also how many calls there were, failed and malformed."""
        counts = {} if self._tools is None else self._counts
        return {**self.opening_info(), **counts}

    def close(self) -> None:
        """Release what the task's episode holds."""
        self._episode.close()

    def _count(self, calls: Sequence[Call], results: Sequence[Result]) -> None:
        numbers = len(calls), sum(r.failed for r in results), sum(bool(c.error) for c in calls)
        self._counts = dict(zip(_COUNTS, numbers))


_COUNTS = ("tool_calls", "tool_failures", "malformed_calls")


def _calling(action: str, calls: Sequence[Call], ids: Sequence[str]) -> Message:
    """The assistant's message with those of its calls that can be made."""
    made = [
        {
            "id": call_id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for call, call_id in zip(calls, ids)
        if not call.error
    ]
    message: Message = {"role": "assistant", "content": action}
    return {**message, "content": without_calls(action), "tool_calls": made} if made else message


def _result(call: Call, call_id: str, result: Result) -> Message:
    """The tool's message of a call."""
    of = {} if call.error else {"name": call.name, "tool_call_id": call_id}
    return {"role": "tool", **of, "content": result.text}


def _copies(messages: Sequence[Message]) -> list[Message]:
    return [
        copy.deepcopy(message) if "tool_calls" in message else dict(message) for message in messages
    ]


def _system(prompt: str) -> str:
    if not isinstance(prompt, str):
        raise ConfigTypeError(f"system_prompt must be text, got {type(prompt).__name__}")
    if not prompt.startswith("@"):
        return prompt
    path = Path(prompt[1:])
    if not path.is_file():
        raise MissingFileError(f"system_prompt {prompt!r}: {path} is not a file")
    try:
        return read_utf8(path).decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise DataError(f"system_prompt {prompt!r}: not UTF-8 ({error.reason})") from error


def _shown(rows: Sequence[Mapping[str, Any]]) -> list[Message]:
    """The messages of few-shot examples."""
    if isinstance(rows, str) or not isinstance(rows, Sequence):
        raise ConfigTypeError(
            f"few_shot must be a list of rows with prompt and answer, got {type(rows).__name__}"
        )
    messages: list[Message] = []
    for i, row in enumerate(rows):
        place = f"few_shot, row {i}"
        if not isinstance(row, Mapping):
            raise DataError(f"{place}: expected an object, got {type(row).__name__}")
        if row.get("messages") is not None or not isinstance(row.get("prompt", ""), str):
            row = with_messages(row, place)
        for key in ("prompt", "answer"):
            if key not in row:
                has = ", ".join(map(repr, row)) or "no keys"
                raise DataError(f"{place}: key {key!r} is missing; the row has {has}")
        if (why := why_missing(row)) is not None:
            raise DataError(f"{place}: {why}")
        asked = row.get("messages") or [{"role": "user", "content": row["prompt"]}]
        if asked[0]["role"] == "system":
            raise DataError(f"{place}: a system message; give it as system_prompt")
        messages += [*asked, {"role": "assistant", "content": as_text(row["answer"])}]
    return check(messages, "few_shot") if messages else []
