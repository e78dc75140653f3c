"""The arena of a comparison: the environment, budget and evaluation that all agents share."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import gymnasium as gym

from textenv.algos.compare.evaluators import EpisodeEvaluator, Evaluator, TextEvaluator
from textenv.algos.config import check_bounds, check_types
from textenv.algos.episodes.environments import is_text, make_env
from textenv.algos.evaluation.measure import evaluation_ids
from textenv.errors import ConfigError, DataError
from textenv.tasks.dataset import Dataset
from textenv.wrappers import ActionMask, ChoiceAction, HashedBagOfWords

EVALUATION_SEED = 2**30
"""Seed of the first evaluation episode; the others count up. Training seeds are far below."""
_MOST_ANSWERS = 256  # in a list of answers to choose from
_LOOKED_THROUGH = 5_000  # examples whose answers are collected


@dataclass(frozen=True)
class Arena:
    """The environment, and how agents are trained and evaluated in it.

    Raises:
        ConfigError: if a value is out of range; names the field.
    """

    env: str = "CartPole-v1"
    """Gymnasium's id of the environment."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of ``gym.make``."""
    total_timesteps: int = 100_000
    """Transitions of each run."""
    eval_every: int = 5_000
    """Transitions between two evaluations."""
    eval_episodes: int = 20
    """Episodes of an evaluation."""
    model: str = "tiny-lm"
    """Text: the language model that `grpo` and `ppo` train."""
    choices: tuple[str, ...] = ()
    """Text: the answers that other agents choose from; if empty, they are taken from the task."""

    def __post_init__(self) -> None:
        check_types(self)
        check_bounds(
            self,
            **dict.fromkeys(("total_timesteps", "eval_every", "eval_episodes"), (1, None)),
        )

    @cached_property
    def is_text(self) -> bool:
        """Whether actions of the environment are text."""
        env = make_env(self.env, self.env_kwargs)
        env.close()
        return is_text(env)

    def make_text(self, split: str = "train") -> gym.Env:
        """Make the environment of text, of the given split if its task has splits."""
        if self._splits:
            return make_env(self.env, self.env_kwargs | {"split": split})
        return make_env(self.env, self.env_kwargs)

    def make(self, split: str = "train") -> gym.Env:
        """Make the environment for agents that do not write text.

        In an environment of text the action is then the index of an answer, and the observation
        counts hashed words.

        Raises:
            ConfigError: if the task has no list of answers.
        """
        if not self.is_text:
            return make_env(self.env, self.env_kwargs)
        answers = self.answers
        env: gym.Env = HashedBagOfWords(ChoiceAction(self.make_text(split), answers))
        return ActionMask(env, on_invalid="random") if isinstance(answers, str) else env

    @cached_property
    def answers(self) -> list[str] | str:
        """The answers to choose from, or the key under which each example has its own list."""
        if self.choices:
            return list(self.choices)
        env = self.make_text()
        task: Any = getattr(env.unwrapped, "task", None)
        env.close()
        name = getattr(task, "name", self.env)
        if isinstance(task, Dataset) and all("choices" in task.example(i) for i in task.ids):
            return "choices"
        found: dict[str, None] = {}
        ids = task.ids if isinstance(task, Dataset) else range(_LOOKED_THROUGH)
        try:
            for example_id in ids if task is not None else ():
                found.setdefault(task.oracle(task.example(example_id)))
                if len(found) > _MOST_ANSWERS:
                    break
        except NotImplementedError:
            found = {}
        if not 1 < len(found) <= _MOST_ANSWERS:
            why = f"more than {_MOST_ANSWERS} different answers" if found else "no known answers"
            raise ConfigError(
                f"agents that do not write text choose from a list of answers, and {name} has "
                f"{why}: give --choices, or a dataset whose rows have 'choices'"
            )
        return sorted(found)

    def evaluator(self, language: bool = False) -> Evaluator:
        """Make the evaluator, which plays the same fixed episodes for every agent.

        Args:
            language: whether the policies write text.
        """
        if not self.is_text:
            starts: list[Any] = [(EVALUATION_SEED + i, None) for i in range(self.eval_episodes)]
            return EpisodeEvaluator(self.make, starts)
        env = self.make_text("test")
        ids = evaluation_ids(env, self.eval_episodes)
        if language:
            return TextEvaluator(env, ids)
        env.close()
        return EpisodeEvaluator(lambda: self.make("test"), [(0, {"example_id": i}) for i in ids])

    @cached_property
    def _splits(self) -> bool:
        """Whether the task has a train and a test split."""
        try:
            for split in ("train", "test"):
                make_env(self.env, self.env_kwargs | {"split": split}).close()
        except (DataError, TypeError):  # too few rows, or an environment without splits
            return False
        return True
