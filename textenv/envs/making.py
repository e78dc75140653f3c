"""Makes the task and the reward that the arguments of an environment describe."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from textenv import tasks
from textenv.conversation import DEFAULT_TURNS, Opening
from textenv.errors import ConfigError, ConfigTypeError
from textenv.rewards import Reward, RewardSpec
from textenv.rewards.extract import ExtractSpec
from textenv.tasks import Task
from textenv.tasks.base import STYLES, check_range
from textenv.tasks.dataset import Dataset, from_prompts
from textenv.tasks.dataset_files import from_path
from textenv.tools import Tool, Tools

_PLAIN = (bool, int, float, str)


def make_task(
    prompts: Sequence[str | Sequence[Mapping[str, Any]]] | None,
    examples: Sequence[Mapping[str, Any]] | None,
    task: str | Task | None,
    dataset: str | Path | None,
    split: str | None,
    task_kwargs: Mapping[str, Any] | None,
    style: str | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> Task:
    """The task that the arguments of an environment describe.

    Raises:
        ConfigError: for arguments that exclude each other, or one that is missing.
        ConfigTypeError: for one of another type.
    """
    given = {"prompts": prompts, "task": task, "dataset": dataset}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise ConfigError(f"give one of prompts, task and dataset, got {' and '.join(named)}")
    if examples is not None and prompts is None:
        raise ConfigError("examples belong to prompts, and no prompts are given")
    if task_kwargs and (prompts is not None or dataset is not None):
        raise ConfigError("task_kwargs are settings of a task; prompts and dataset take none")
    if (columns is not None or limit is not None) and dataset is None:
        word = "limit is of" if columns is None else "columns are those of"
        raise ConfigError(f"{word} a dataset, and none is given")
    for name, value, kinds in (
        ("task", task, (str, Task)),
        ("dataset", dataset, (str, Path)),
        ("task_kwargs", task_kwargs, (Mapping,)),
        ("examples", examples, (Sequence,)),
    ):
        if value is not None and not isinstance(value, kinds):
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise ConfigTypeError(f"{name} must be {expected}, got {type(value).__name__}")
    for name in ("split", "style"):
        if task_kwargs and name in task_kwargs:
            raise ConfigError(f"{name} is a separate argument and not a key of task_kwargs")
    if isinstance(task, Task):
        if split is not None or style is not None or task_kwargs:
            raise ConfigError(
                "split, style and task_kwargs need the name of a task, and task is a Task object"
            )
        return task
    if style not in (None, STYLES[0]) and (prompts is not None or dataset is not None):
        raise ConfigError(f"own prompts are shown as they are and have no style, got {style!r}")
    if prompts is not None:
        return from_prompts(prompts, examples, split)
    if dataset is not None:
        return from_path(dataset, split, columns, limit)
    return tasks.make(task or "arithmetic", style, split=split or "train", **(task_kwargs or {}))


def make_opening(
    task: Task,
    system_prompt: str | None,
    few_shot: Sequence[Mapping[str, Any]] | None,
    tools: Sequence[Tool] | None,
    max_turns: int | None,
    tool_timeout: float | None,
) -> tuple[Task, Opening]:
    """What goes before the conversations of a task, and the task with as many turns as it needs.

    Raises:
        ConfigError: for tools that cannot be called, or ``max_turns`` without tools.
        ConfigTypeError: for an argument of another type.
        DataError: for a row of ``few_shot`` that is wrong.
    """
    own = tuple(task.tools)
    if not own and (tools is None or (isinstance(tools, Sequence) and not tools)):
        if max_turns is not None:
            raise ConfigError(
                "max_turns is the number of actions in an episode with tools, and there are none; "
                "a task of several turns takes its own in task_kwargs"
            )
        return task, Opening(system_prompt, few_shot)
    made = Tools(() if tools is None else tools, tool_timeout, own)
    if max_turns is not None:
        check_range("max_turns", max_turns, 1, 1000)
    elif task.max_turns == 1 and not own:
        max_turns = DEFAULT_TURNS
    task = task if max_turns is None else task.with_max_turns(max_turns)
    return task, Opening(system_prompt, few_shot, made)


def make_reward(
    task: Task,
    reward_fn: RewardSpec | None,
    weights: Mapping[str, float] | None,
    extract: ExtractSpec | None = None,
    **calling: Any,
) -> Reward:
    """The reward of an environment of this task; ``calling`` are other settings of `Reward`.

    Without a reward function a task's own verifier scores. Own prompts have none: if the user said
    what to extract of a completion, that must equal the answer.

    Raises:
        ConfigError: if a task without a verifier has no reward function.
        DataError: if a row of the dataset lacks what a reward function needs; names it.
    """
    own_examples = isinstance(task, Dataset)
    if reward_fn is None:
        if own_examples and extract is None:
            raise ConfigError(
                "own prompts and datasets need a reward_fn: a function "
                "fn(prompt, completion, example) or a name such as 'exact_match'"
            )
        reward_fn = "exact_match" if own_examples else "correct"
    reward = Reward(reward_fn, weights, has_verifier=not own_examples, **calling)
    if isinstance(task, Dataset):
        task.require(reward.requires, f"reward_fn={reward_fn!r}", reward.checks)
    return reward


def changed(made: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call that are not their defaults, as the spec of an environment has them.

    Args:
        made: what was called.
        given: all arguments by name; other names are left out.
    """
    changes: dict[str, Any] = {}
    for name, parameter in inspect.signature(made).parameters.items():
        value, default = given[name], parameter.default
        same = type(value) is type(default) and isinstance(value, _PLAIN) and value == default
        if value is not default and not same:
            changes[name] = str(value) if isinstance(value, Path) else value
    return changes
