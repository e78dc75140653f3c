"""TextGen: a prompt is the observation, a completion the action."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import InvalidAction, ResetNeeded

from textenv import tasks
from textenv.errors import ConfigError, ConfigTypeError, DataError
from textenv.rewards import Reward, RewardSpec
from textenv.spaces import UnicodeText
from textenv.tasks import Example, Task
from textenv.tasks.dataset import Dataset, from_jsonl, from_prompts

ENTRY_POINT = "textenv.env:TextGenerationEnv"
MAX_CHARACTERS = 2**20  # longest observation and action
_MAX_ID = 2**48  # ids of generated examples are drawn below this


class TextGenerationEnv(gym.Env[str, str]):
    """Complete a prompt, and be scored.

    ## Description
    One episode is one problem: the environment shows a prompt, the agent answers with a text,
    and a reward function (or the task's own verifier) scores it.

    ## Action Space
    `UnicodeText`: any string, the completion.

    ## Observation Space
    `UnicodeText`: the prompt; after the step, the prompt and the completion.

    ## Rewards
    The weighted sum of the reward components, which ``info["rewards"]`` lists by name.

    ## Starting State
    An example drawn from the task with the environment's generator, or the one that
    ``options={"example_id": i}`` names.

    ## Episode End
    Terminates after one step. With a ``tokenizer``, a completion of more than ``max_tokens``
    tokens truncates instead: it is scored, but a real system would have cut it off.

    ## Information
    ``reset`` gives ``task``, ``example_id`` and ``prompt``; ``step`` gives ``completion``,
    ``rewards`` and, where a verifier can tell, ``is_correct``.

    ## Arguments
    Args:
        prompts: own prompts. Their ids are their indices, and they are shown unchanged.
        reward_fn: a reward function, a registered name, or a list of these; default
            ``"correct"``, the task's own verifier.
        max_tokens: longest completion in tokens; counted only where there is a tokenizer.
        tokenizer: anything with ``encode(text) -> ids``.
        examples: one dict for each of the own prompts, given to the reward function.
        task: name of a task (see `textenv.tasks.names`), or a `textenv.tasks.Task`;
            ``"arithmetic"`` where neither prompts nor a dataset are given.
        dataset: a JSON Lines file, rows ``{"prompt", "answer", ...}``.
        split: ``"train"`` or ``"test"``; None is train for a generated task and all rows of
            own prompts and datasets.
        task_kwargs: difficulty parameters of the task.
        reward_weights: weight by component name, 1 where it is not named.
        render_mode: ``"ansi"`` (a string) or ``"human"`` (printed).

    ## Version History
    * v0: first version.
    """

    metadata = {"render_modes": ["ansi", "human"], "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        prompts: Sequence[str] | None = None,
        reward_fn: RewardSpec | None = None,
        max_tokens: int = 25,
        tokenizer: Any = None,
        examples: Sequence[Mapping[str, Any]] | None = None,
        *,
        task: str | Task | None = None,
        dataset: str | Path | None = None,
        split: str | None = None,
        task_kwargs: Mapping[str, Any] | None = None,
        reward_weights: Mapping[str, float] | None = None,
        render_mode: str | None = None,
    ):
        if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1:
            raise ConfigError(f"max_tokens must be an integer >= 1, got {max_tokens!r}")
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ConfigError(f"render_mode must be 'ansi' or 'human', got {render_mode!r}")
        self.task = _make_task(prompts, examples, task, dataset, split, task_kwargs)
        self.example: Example | None = None
        self.max_tokens = max_tokens
        self.tokenizer = tokenizer
        self.render_mode = render_mode
        self.observation_space = UnicodeText(MAX_CHARACTERS)
        self.action_space = UnicodeText(MAX_CHARACTERS)
        self._score = _make_reward(self.task, reward_fn, reward_weights)
        self._transcript = ""
        self._needs_reset = "reset() must be called before step()"
        if isinstance(tokenizer, str) or (
            tokenizer is not None and not callable(getattr(tokenizer, "encode", None))
        ):
            raise ConfigTypeError(f"tokenizer must have an encode method, got {tokenizer!r}")
        if type(self) is not TextGenerationEnv:
            return  # a subclass may take other arguments
        # gym.make sets its own spec; one made directly can be made again from this.
        self.spec = EnvSpec(
            "TextGen-v0",
            entry_point=ENTRY_POINT,
            kwargs={
                key: value
                for key, value in {
                    "prompts": prompts,
                    "reward_fn": reward_fn,
                    "max_tokens": max_tokens,
                    "tokenizer": tokenizer,
                    "examples": examples,
                    "task": task,
                    "dataset": None if dataset is None else str(dataset),
                    "split": split,
                    "task_kwargs": task_kwargs,
                    "reward_weights": reward_weights,
                }.items()
                if value is not None
            },
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Draw an example, or take the one of ``options={"example_id": i}``.

        Raises:
            ConfigError: for an unknown option or an id out of range.
            ConfigTypeError: for an id that is not an integer.
        """
        super().reset(seed=seed)
        example_id = self._example_id(options)
        self.example = self.task.example(example_id)
        prompt = self.example["prompt"]
        if len(prompt) > MAX_CHARACTERS:
            raise DataError(
                f"the prompt of example {example_id} of {self.task.name} has {len(prompt)} "
                f"characters; at most {MAX_CHARACTERS} fit the observation space"
            )
        self._transcript = prompt
        self._needs_reset = ""
        self._render_human()
        return prompt, {"task": self.task.name, "example_id": example_id, "prompt": prompt}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Score a completion and end the episode.

        Raises:
            InvalidAction: where the action is not a member of the action space.
            ResetNeeded: before the first reset and after the end of an episode.
            RewardError: where a reward function fails.
        """
        if self._needs_reset:
            raise ResetNeeded(self._needs_reset)
        if not self.action_space.contains(action):
            raise InvalidAction(_why_invalid(action))
        assert self.example is not None
        prompt = self.example["prompt"]
        reward, components, correct = self._score(prompt, action, self.example)
        self._transcript = (prompt + action)[:MAX_CHARACTERS]
        self._needs_reset = "the episode has ended: reset() must be called before step()"
        truncated = (
            self.tokenizer is not None and len(self.tokenizer.encode(action)) > self.max_tokens
        )
        info: dict[str, Any] = {"completion": action, "rewards": components}
        if correct is None:  # own rewards: the task can still tell
            score = self.task.score(self.example, action)
            correct = None if score is None else bool(score >= 1)
        if correct is not None:
            info["is_correct"] = correct
        self._render_human()
        return self._transcript, reward, not truncated, truncated, info

    @property
    def copy_kwargs(self) -> dict[str, Any]:
        """What to change in the spec's kwargs for a copy that shares this one's examples."""
        own = ("prompts", "examples", "dataset", "split", "task_kwargs")
        return {**dict.fromkeys(own), "task": self.task}

    def render(self) -> str | None:
        """The transcript so far: returned in mode ``"ansi"``, printed in mode ``"human"``."""
        if self.render_mode == "ansi":
            return self._transcript
        self._render_human()
        return None

    def _render_human(self) -> None:
        if self.render_mode == "human":
            print(self._transcript, flush=True)

    def _example_id(self, options: dict[str, Any] | None) -> int:
        if options is not None and not isinstance(options, Mapping):
            raise ConfigTypeError(f"options must be a dict, got {type(options).__name__}")
        if not options:
            if isinstance(self.task, Dataset):
                return self.task.ids[int(self.np_random.integers(len(self.task.ids)))]
            return int(self.np_random.integers(self.task.size or _MAX_ID))
        if unknown := options.keys() - {"example_id"}:
            names = ", ".join(sorted(map(repr, unknown)))
            raise ConfigError(f"unknown reset options {names}; known: 'example_id'")
        example_id = options["example_id"]
        if isinstance(example_id, bool) or not isinstance(example_id, (int, np.integer)):
            raise ConfigTypeError(f"example_id must be an integer, got {type(example_id).__name__}")
        return int(example_id)


def _make_task(
    prompts: Sequence[str] | None,
    examples: Sequence[Mapping[str, Any]] | None,
    task: str | Task | None,
    dataset: str | Path | None,
    split: str | None,
    task_kwargs: Mapping[str, Any] | None,
) -> Task:
    given = {"prompts": prompts, "task": task, "dataset": dataset}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise ConfigError(f"give one of prompts, task and dataset, got {' and '.join(named)}")
    if examples is not None and prompts is None:
        raise ConfigError("examples go with prompts, and no prompts are given")
    if task_kwargs and (prompts is not None or dataset is not None):
        raise ConfigError("task_kwargs are parameters of a task, and own examples have none")
    for name, value, kinds in (
        ("task", task, (str, Task)),
        ("dataset", dataset, (str, Path)),
        ("task_kwargs", task_kwargs, (Mapping,)),
        ("examples", examples, (Sequence,)),
    ):
        if value is not None and not isinstance(value, kinds):
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise ConfigTypeError(f"{name} must be {expected}, got {type(value).__name__}")
    if task_kwargs and "split" in task_kwargs:
        raise ConfigError("split is an argument of its own, and no key of task_kwargs")
    if isinstance(task, Task):
        if split is not None or task_kwargs:
            raise ConfigError("split and task_kwargs go with a task's name, and task is one made")
        return task
    if prompts is not None:
        return from_prompts(prompts, examples, split)
    if dataset is not None:
        return from_jsonl(dataset, split)
    return tasks.make(task or "arithmetic", split=split or "train", **(task_kwargs or {}))


def _make_reward(
    task: Task, reward_fn: RewardSpec | None, weights: Mapping[str, float] | None
) -> Reward:
    own_examples = isinstance(task, Dataset)
    if reward_fn is None:
        if own_examples:
            raise ConfigError(
                "own prompts and datasets need a reward_fn: a function "
                "fn(prompt, completion, example) or a name such as 'exact_match'"
            )
        reward_fn = "correct"
    reward = Reward(reward_fn, weights, verifier=None if own_examples else task.score)
    if isinstance(task, Dataset) and reward.requires:
        task.require(reward.requires, because=f"reward_fn={reward_fn!r}")
    return reward


def _why_invalid(action: Any) -> str:
    if not isinstance(action, str):
        return f"action must be a string, got {type(action).__name__}"
    if len(action) > MAX_CHARACTERS:
        return f"action has {len(action)} characters; at most {MAX_CHARACTERS} are allowed"
    return "action holds a lone surrogate, which no UTF-8 text can hold"
