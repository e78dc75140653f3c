"""What all agents of a comparison share: environment, budget, evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import gymnasium as gym

from textenv.algos.compare.evaluators import EpisodeEvaluator, Evaluator, TextEvaluator
from textenv.algos.config import check_bounds, check_types
from textenv.algos.episodes.environments import is_text, make_env
from textenv.algos.evaluation import evaluation_ids
from textenv.errors import ConfigError, DataError
from textenv.tasks.dataset import Dataset
from textenv.wrappers import ActionMask, ChoiceAction, HashedBagOfWords

EVALUATION_SEED = 2**30
"""Of the first evaluation episode; the others count up. Training seeds are far below."""
_MOST_ANSWERS = 256  # of a task that has a list of answers
_LOOKED_THROUGH = 5_000  # examples


@dataclass(frozen=True)
class Arena:
    """The environment, and how agents are trained and evaluated in it.

    Raises:
        ConfigError: for a value out of range, naming the field.
    """

    env: str = "CartPole-v1"
    """Gymnasium's id."""
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
    """Text: the answers that other agents choose from; empty: found in the task."""

    def __post_init__(self) -> None:
        check_types(self)
        check_bounds(
            self,
            **dict.fromkeys(("total_timesteps", "eval_every", "eval_episodes"), (1, None)),
        )

    @cached_property
    def is_text(self) -> bool:
        """Whether the environment takes text."""
        env = make_env(self.env, self.env_kwargs)
        env.close()
        return is_text(env)

    def make_text(self, split: str = "train") -> gym.Env:
        """The environment of text as it is, of a split where its task has two."""
        if self._splits:
            return make_env(self.env, self.env_kwargs | {"split": split})
        return make_env(self.env, self.env_kwargs)

    def make(self, split: str = "train") -> gym.Env:
        """The environment for agents that do not write text.

        On text the action is the index of an answer, and the observation counts hashed words.

        Raises:
            ConfigError: for a task without a list of answers.
        """
        if not self.is_text:
            return make_env(self.env, self.env_kwargs)
        answers = self.answers
        env: gym.Env = HashedBagOfWords(ChoiceAction(self.make_text(split), answers))
        return ActionMask(env, on_invalid="random") if isinstance(answers, str) else env

    @cached_property
    def answers(self) -> list[str] | str:
        """The answers to choose from, or the key of each example's own list of them."""
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
        """The evaluation: fixed episodes, the same for every agent.

        Args:
            language: whether the policy writes text.
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
        except (DataError, TypeError):  # too few rows, or an environment that knows no splits
            return False
        return True
