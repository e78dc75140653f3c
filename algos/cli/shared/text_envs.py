"""Makes the environments of text that a command line names."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium as gym

from textenv.algos.cli.shared.escape import say
from textenv.algos.episodes.environments import make_env
from textenv.algos.episodes.style import style_for
from textenv.envs.env import TextGenerationEnv
from textenv.errors import ConfigError, DataError
from textenv.from_files import split_name
from textenv.rewards import from_file, name_of
from textenv.rewards.answers import why_missing
from textenv.tasks.dataset_files import from_path


@dataclass
class TextTask:
    """The options that name a task or a dataset of text, and its rewards."""

    task: str | None = None
    """Text: name of a task, see textenv envs, or FILE.py:NAME of your own; unset: arithmetic."""
    task_kwargs: dict[str, int | str] = field(default_factory=dict)
    """Text: difficulty parameters of the task, as in --task-kwargs digits 3."""
    dataset: Path | None = None
    """Text: file of your own examples, rows {"prompt", "answer", ...}, instead of a task."""
    columns: tuple[str, ...] = ()
    """Text: names for columns of the dataset, as question=prompt gold=answer."""
    limit: int | None = None
    """Text: read only so many rows of the dataset, the first ones; unset: all."""
    eval_dataset: Path | None = None
    """Text: file of other examples, to evaluate on; unset: about a tenth of the dataset is held
    back for that."""
    reward: tuple[str, ...] = ()
    """Text: reward functions, as NAME[=WEIGHT] or FILE.py:NAME[=WEIGHT]; unset: the task's own
    verifier."""
    reward_timeout: float | None = None
    """Text: seconds that a call of a reward function may take before it scores 0; unset: 10 for
    verifiers with the parser of another library, no limit for others."""
    system_prompt: str | None = None
    """Text: what a system message says before each prompt; @FILE reads it from a file."""
    few_shot: Path | None = None
    """Text: file of solved examples, rows {"prompt", "answer"}, to show before each prompt."""
    extract: str | None = None
    """Text: what of a completion is the answer: last_number, boxed, tag:answer, after:####,
    line:last, regex:...; unset: all of it, or as the task's style says."""
    style: str | None = None
    """Text: how a task asks: plain, or chat (a question in words); unset: as fits the model."""

    @property
    def name(self) -> str:
        """The name that a run is called after."""
        if self.task is not None:
            return own[1] if (own := split_name(self.task)) else self.task
        return self.dataset.stem if self.dataset else "arithmetic"

    @property
    def given(self) -> bool:
        """Whether any of the options is set."""
        return self != TextTask()

    def for_model(self, env_id: str, model: str, chat_template: bool | None = None) -> TextTask:
        """The same options with the style that fits a model, unless one is set.

        Args:
            env_id: id of the environment.
            model: name or folder of the model.
            chat_template: whether prompts go through its chat template; None: if it has one.
        """
        self._check_names()
        given = {"task": self.task, "dataset": self.dataset, "style": self.style}
        style = style_for(env_id, given, model, chat_template)["style"]
        return self if style == self.style else replace(self, style=style)

    def env_kwargs(self) -> dict[str, Any]:
        """The arguments of ``gym.make``, for training.

        Raises:
            ConfigError: for options that exclude each other, or a value that cannot be read.
            MissingFileError: for a file that is not there.
        """
        self._check_names()
        if self.dataset is None:
            for name in ("columns", "limit", "eval_dataset"):
                if getattr(self, name) not in (None, ()):
                    raise ConfigError(f"--{name.replace('_', '-')} goes with --dataset")
        named = {
            "task": self.task,
            "task_kwargs": self.task_kwargs or None,
            "dataset": None if self.dataset is None else str(self.dataset),
            "columns": _parse_columns(self.columns) or None,
            "limit": self.limit,
            "system_prompt": self.system_prompt,
            "few_shot": None if self.few_shot is None else read_few_shot(self.few_shot),
            "extract": self.extract,
            "style": self.style,
        }
        kwargs = {name: value for name, value in named.items() if value is not None}
        return kwargs | self._reward_kwargs()

    def _check_names(self) -> None:
        if self.task is not None and self.dataset is not None:
            raise ConfigError("give --task or --dataset, not both")
        if self.task == "":
            raise ConfigError("--task is empty; textenv envs lists the tasks")

    def eval_kwargs(self) -> dict[str, Any]:
        """The arguments of ``gym.make`` for ``eval_dataset``; all its rows are played."""
        kwargs = self.env_kwargs() | {"dataset": str(self.eval_dataset)}
        return {name: value for name, value in kwargs.items() if name != "limit"}

    def refuse_eval_dataset(self, command: str) -> None:
        """Raise ConfigError for an ``eval_dataset``, of which a command makes no use."""
        if self.eval_dataset is not None:
            raise ConfigError(f"{command} takes no --eval-dataset: give that file as --dataset")

    def _reward_kwargs(self) -> dict[str, Any]:
        kwargs: dict[str, Any] = {}
        if self.reward:
            parts = [load_reward(text) for text in self.reward]
            kwargs["reward_fn"] = [function for function, _ in parts]
            weights = {name_of(part): weight for part, weight in parts if weight is not None}
            if weights:
                kwargs["reward_weights"] = weights
        if self.reward_timeout is not None:
            kwargs["reward_timeout"], kwargs["reward_on_timeout"] = self.reward_timeout, 0.0
            if self.reward:  # an async one would not need the process
                kwargs["reward_process"] = True
        return kwargs


def read_few_shot(path: Path) -> list[dict[str, Any]]:
    """The solved examples of a file: the prompt of each row, and its solution or else its answer.

    Raises:
        MissingFileError: if there is no such file.
        DataError: if it cannot be read, or a row has no answer; names the row.
    """
    rows = from_path(path)
    rows.require(("answer",), "--few-shot", (why_missing,))
    examples = rows.examples(rows.ids)
    return [
        {"prompt": row.get("messages", row["prompt"]), "answer": row.get("solution", row["answer"])}
        for row in examples
    ]


def paths_from_text(table: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a TOML table, which has only strings, with paths where `TextTask` has them."""
    names = ("dataset", "eval_dataset", "few_shot")
    paths = {name: Path(table[name]) for name in names if isinstance(table.get(name), str)}
    return {**table, **paths}


def _parse_columns(texts: tuple[str, ...]) -> dict[str, str]:
    """The columns that ``COLUMN=NAME`` texts name."""
    columns: dict[str, str] = {}
    for text in texts:
        column, equals, name = text.rpartition("=")
        if not (column and equals and name):
            raise ConfigError(f"--columns {text}: expected COLUMN=NAME, as in question=prompt")
        if column in columns:
            raise ConfigError(f"--columns names {column!r} twice")
        columns[column] = name
    return columns


def make_text_envs(env_id: str, task: TextTask, evaluate: bool) -> tuple[gym.Env, gym.Env | None]:
    """Make the environment to train in, and the one to evaluate in.

    The second is None if the environment has no examples, or if ``evaluate`` is false.

    Raises:
        ConfigError: for options that exclude each other, or if the id is not registered.
        DataError: for a row of a file that cannot be used; names it.
    """
    if task.eval_dataset is not None:
        train, test = (make_split(env_id, task, split) for split in ("train", "test"))
        rows, others = ({*env.unwrapped.task.prompts()} for env in (train, test))  # type: ignore[attr-defined]
        if both := len(rows & others):
            say(
                f"{both} of the {len(others)} prompts of {task.eval_dataset} are in {task.dataset} "
                "too: what is evaluated on them was trained on"
            )
        return train, test
    env = make_env(env_id, task.env_kwargs())
    if not isinstance(env.unwrapped, TextGenerationEnv) or not evaluate:
        return env, None
    try:
        return make_split(env_id, task, "train"), make_split(env_id, task, "test")
    except DataError as error:  # a dataset so small that one side is empty, a task without splits
        why = f"{task.dataset} has too few rows to hold some back" if task.dataset else error
        say(f"{why}: it is evaluated on all of them")
        return env, env


def make_split(env_id: str, task: TextTask, split: str) -> gym.Env:
    """Make the environment of one split.

    Args:
        env_id: id of an environment of text.
        task: its task or dataset. If there is an ``eval_dataset``, that one is the test split, and
            the dataset is the train split.
        split: train or test, or all rows of a dataset.

    Raises:
        ConfigError: for all rows of a task without rows, or another unknown split.
        DataError: if a dataset has no row in the split.
    """
    if split == "all" and task.dataset is None:
        raise ConfigError("split 'all' is all rows of a --dataset; a task has train and test")
    kwargs = task.env_kwargs()
    if task.eval_dataset is not None:
        kwargs = task.eval_kwargs() if split == "test" else kwargs
        has_splits = (Path(kwargs["dataset"]) / "dataset_dict.json").is_file()
        return make_env(env_id, kwargs | ({"split": split} if has_splits else {}))
    return make_env(env_id, kwargs | {"split": None if split == "all" else split})


def load_reward(text: str) -> tuple[str | Callable[..., Any], float | None]:
    """A reward function and its weight, from ``NAME[=WEIGHT]`` or ``FILE.py:NAME[=WEIGHT]``.

    Returns:
        The name as it is, or the function of the file; and the weight, None if there is none.

    Raises:
        MissingFileError: if the file does not exist.
        ConfigError: if the file has no such function, or the weight is not a finite number.
    """
    own = split_name(text)
    name, equals, number = (own[1] if own else text).partition("=")
    weight: float | None = None
    if equals:
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not math.isfinite(weight):
            raise ConfigError(
                f"--reward {text}: the weight must be a finite number, got {number!r}"
            )
    return (from_file.load(own[0], name) if own else name), weight
