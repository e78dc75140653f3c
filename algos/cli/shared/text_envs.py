"""Makes the environments of text that a command line names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium as gym

from textenv.algos.cli.shared.escape import say
from textenv.algos.episodes.environments import make_env
from textenv.algos.episodes.style import style_for
from textenv.env import TextGenerationEnv
from textenv.errors import ConfigError, DataError
from textenv.rewards import from_file


@dataclass
class TextTask:
    """The options that name a task or a dataset of text, and its rewards."""

    task: str | None = None
    """Text: name of a task, see textenv envs; unset: arithmetic."""
    task_kwargs: dict[str, int | str] = field(default_factory=dict)
    """Text: difficulty parameters of the task, as in --task-kwargs digits 3."""
    dataset: Path | None = None
    """Text: file of your own examples, rows {"prompt", "answer", ...}, instead of a task."""
    reward: tuple[str, ...] = ()
    """Text: reward functions, as names or FILE.py:FUNCTION; unset: the task's own verifier."""
    reward_timeout: float | None = None
    """Text: seconds that a call of a reward function may take before it scores 0; unset: 10 for
    verifiers with the parser of another library, no limit for others."""
    style: str | None = None
    """Text: how a task asks: plain, or chat (a question in words); unset: as fits the model."""

    @property
    def name(self) -> str:
        """The name that a run is called after."""
        return self.task or (self.dataset.stem if self.dataset else "arithmetic")

    @property
    def given(self) -> bool:
        """Whether any of the options is set."""
        return bool(
            self.task
            or self.task_kwargs
            or self.dataset
            or self.reward
            or self.reward_timeout
            or self.style
        )

    def for_model(self, env_id: str, model: str, chat_template: bool | None = None) -> TextTask:
        """The same options with the style that fits a model, unless one is set.

        Args:
            env_id: id of the environment.
            model: name or folder of the model.
            chat_template: whether prompts go through its chat template; None: if it has one.
        """
        given = {"task": self.task, "dataset": self.dataset, "style": self.style}
        style = style_for(env_id, given, model, chat_template)["style"]
        return self if style == self.style else replace(self, style=style)

    def env_kwargs(self) -> dict[str, Any]:
        """The arguments of ``gym.make``.

        Raises:
            ConfigError: if both a task and a dataset are given.
        """
        if self.task is not None and self.dataset is not None:
            raise ConfigError("give --task or --dataset, not both")
        if self.task == "":
            raise ConfigError("--task is empty; textenv envs lists the tasks")
        kwargs: dict[str, Any] = {}
        if self.task is not None:
            kwargs["task"] = self.task
        if self.task_kwargs:
            kwargs["task_kwargs"] = self.task_kwargs
        if self.style is not None:
            kwargs["style"] = self.style
        if self.dataset is not None:
            kwargs["dataset"] = str(self.dataset)
        if self.reward:
            kwargs["reward_fn"] = [load_reward(name) for name in self.reward]
        if self.reward_timeout is not None:
            kwargs["reward_timeout"], kwargs["reward_on_timeout"] = self.reward_timeout, 0.0
            if self.reward:  # an async one would not need the process
                kwargs["reward_process"] = True
        return kwargs


def make_text_envs(env_id: str, task: TextTask, evaluate: bool) -> tuple[gym.Env, gym.Env | None]:
    """Make the environment to train in, and the one to evaluate in.

    The second is None if the environment has no examples, or if ``evaluate`` is false.

    Raises:
        ConfigError: if both a task and a dataset are given, or the id is not registered.
    """
    env = make_env(env_id, task.env_kwargs())
    if not isinstance(env.unwrapped, TextGenerationEnv) or not evaluate:
        return env, None
    try:
        return make_split(env_id, task, "train"), make_split(env_id, task, "test")
    except DataError:  # a dataset so small that one side is empty
        say(f"{task.dataset} has too few rows to hold some back: it is evaluated on all of them")
        return env, env


def make_split(env_id: str, task: TextTask, split: str) -> gym.Env:
    """Make the environment of one split.

    Args:
        env_id: id of an environment of text.
        task: its task or dataset.
        split: train or test, or all rows of a dataset.

    Raises:
        ConfigError: for all rows of a task without rows, or another unknown split.
        DataError: if a dataset has no row in the split.
    """
    if split == "all" and task.dataset is None:
        raise ConfigError("split 'all' is all rows of a --dataset; a task has train and test")
    return gym.make(env_id, **task.env_kwargs(), split=None if split == "all" else split)


def load_reward(name: str) -> str | Callable[..., Any]:
    """A reward function's name as it is, or the function that ``FILE.py:FUNCTION`` names.

    Raises:
        MissingFileError: if the file does not exist.
        ConfigError: if the file has no such function.
    """
    path, colon, function = name.rpartition(":")
    if not colon or not path.endswith(".py"):
        return name
    return from_file.load(path, function)
