"""Lets TRL's ``GRPOTrainer`` train on environments and rewards of this package, and the reverse.

    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer
    from textenv.wrappers.trl import environment_factory, environment_reward, rows

    trainer = GRPOTrainer(
        "Qwen/Qwen3-0.6B",
        args=GRPOConfig(max_steps=100, num_generations=8),
        environment_factory=environment_factory("TextGen-v0", task="countdown"),
        reward_funcs=environment_reward,
        train_dataset=Dataset.from_list(rows("TextGen-v0", 1000, task="countdown")),
    )

In a task of one turn the completion is the action. In a task of several turns the model calls the
tool ``act`` for each action, for which TRL needs a chat template with tools. If the episode has
not ended then, the model's final message is the last action. This was written for TRL 1.16, whose
``environment_factory`` is experimental. Nothing in this module imports TRL.

The other way round, `from_trl_reward` makes a reward function of this package from one of TRL's.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import gymnasium as gym

from textenv.errors import ConfigError, ConfigTypeError
from textenv.rewards import Reward, RewardSpec
from textenv.rewards.calls import is_async
from textenv.tokenizers import load_tokenizer
from textenv.wrappers.text import require_text

_NOT_COLUMNS = ("trainer_state", "log_extra", "log_metric", "environments", "completion_ids")


class TextEnvironment:
    """An environment with the interface that TRL expects; `environment_factory` makes the class.

    TRL offers every public method of such a class but ``reset`` to the model as a tool.

    Attributes:
        env_id: the id for ``gym.make``.
        env_kwargs: the keyword arguments for ``gym.make``.
    """

    env_id: str
    env_kwargs: dict[str, Any]

    def __init__(self) -> None:
        self._env = gym.make(self.env_id, **self.env_kwargs)
        self._open = False
        self._reward = 0.0
        self._scored = False
        self._components: dict[str, float] = {}

    def reset(self, **row: Any) -> str:
        """Start the episode of a row of the dataset, and return its prompt.

        Raises:
            ConfigError: if the row has no ``example_id``.
        """
        if row.get("example_id") is None:
            raise ConfigError(
                "each row of train_dataset needs an example_id, so that the completions of a "
                "group answer the same prompt; textenv.wrappers.trl.rows makes such rows"
            )
        observation, _ = self._env.reset(options={"example_id": row["example_id"]})
        self._open, self._reward, self._components = True, 0.0, {}
        self._scored = False
        return observation

    def _step(self, action: str) -> str:
        """Take an action, and return the environment's reply."""
        observation, reward, terminated, truncated, info = self._env.step(action)
        self._reward += float(reward)
        self._scored = self._scored or info.get("scored", True)
        for name, value in info.get("rewards", {}).items():
            self._components[name] = self._components.get(name, 0.0) + value
        self._open = not (terminated or truncated)
        return info.get("turn", observation)

    def _finish(self, completion: str) -> None:
        """Take the last action if the episode has not ended; no action is taken after it."""
        if self._open:
            self._step(completion)
        self._open = False


class TextEnvironmentOfManyTurns(TextEnvironment):
    """An environment of several turns, with a tool that takes an action."""

    def act(self, text: str) -> str:
        """Say or do something, and read the answer.

        Args:
            text: What you say or do.

        Returns:
            The answer.
        """
        return self._step(text) if self._open else "The episode is over."


def environment_factory(env_id: str = "TextGen-v0", **env_kwargs: Any) -> type[TextEnvironment]:
    """Make the class for ``GRPOTrainer(environment_factory=...)``.

    Args:
        env_id: id of an environment whose observation and action are text.
        env_kwargs: keyword arguments for ``gym.make``.

    Raises:
        ConfigTypeError: if the environment's observation or action is not text.
    """
    env = gym.make(env_id, **env_kwargs)
    for what in ("observation", "action"):
        require_text(env, "environment_factory", what)
    turns = getattr(getattr(env.unwrapped, "task", None), "max_turns", 1)
    base = TextEnvironmentOfManyTurns if turns > 1 else TextEnvironment
    return type(base.__name__, (base,), {"env_id": env_id, "env_kwargs": env_kwargs})


def environment_reward(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    environments: Sequence[TextEnvironment],
    log_metric: Callable[[str, float], None] | None = None,
    **columns: Any,
) -> list[float | None]:
    """A TRL reward function for use with `environment_factory`: the sum of an episode's rewards.

    It is None if the reward functions abstained. The mean of each reward component is logged under
    ``components/{name}``.
    """
    for environment, completion in zip(environments, completions):
        environment._finish(_text(completion))
    _log([environment._components for environment in environments], log_metric)
    return [each._reward if each._scored else None for each in environments]


def rows(
    env_id: str = "TextGen-v0", n: int = 1000, seed: int = 0, prompt: str = "", **env_kwargs: Any
) -> list[dict[str, Any]]:
    """Make the rows of a ``train_dataset`` for `environment_factory`, one for each example.

    Args:
        env_id: as in `environment_factory`.
        n: number of rows.
        seed: seed with which the examples are drawn.
        prompt: an instruction, to which TRL appends the example's own prompt at reset.
        env_kwargs: as in `environment_factory`.
    """
    env = gym.make(env_id, **env_kwargs)
    ids = [env.reset(seed=seed if i == 0 else None)[1]["example_id"] for i in range(n)]
    return [
        {"prompt": [{"role": "user", "content": prompt}], "example_id": example_id}
        for example_id in ids
    ]


def reward_function(
    reward_fn: RewardSpec, reward_weights: Mapping[str, float] | None = None
) -> Callable[..., list[float | None]]:
    """Make one TRL reward function from reward functions of this package, without an environment.

    The columns of the dataset are the keys of the example: ``exact_match`` needs a column
    ``answer``. If prompts or completions are lists of messages, the text of the last one is used.

    Args:
        reward_fn: a reward function ``fn(prompt, completion, example)``, a registered name, or
            a list of these.
        reward_weights: weight of each component by name; 1 if it is not named.
    """
    score = Reward(reward_fn, reward_weights)

    def trl_reward(
        prompts: Sequence[Any],
        completions: Sequence[Any],
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """The reward of each completion; None if every function abstained."""
        columns = {key: column for key, column in columns.items() if key not in _NOT_COLUMNS}
        scored = []
        for i, (prompt, completion) in enumerate(zip(prompts, completions)):
            asked = _text(prompt)
            example = {"prompt": asked, **{key: column[i] for key, column in columns.items()}}
            scored.append(score(asked, _text(completion), example))
        components = [row[1] for row in scored]
        if any(len(row) > 1 for row in components):
            _log(components, log_metric)
        return [None if math.isnan(row[0]) else row[0] for row in scored]

    parts = [reward_fn] if isinstance(reward_fn, str) or callable(reward_fn) else reward_fn
    trl_reward.__name__ = "+".join(
        part if isinstance(part, str) else getattr(part, "__name__", type(part).__name__)
        for part in parts
    )
    return trl_reward


class TRLReward:
    """A reward function of this package that calls one of TRL's; `from_trl_reward` makes it.

    It takes a batch, and declares so, as `textenv.reward` does for other functions.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        verifies: bool,
        conversational: bool | None,
        tokenizer: Any,
    ):
        self.function = function
        self._conversational, self._tokenizer = conversational, tokenizer
        bare: Any = function
        while isinstance(bare, functools.partial):
            bare = bare.func
        self.__name__ = getattr(bare, "__name__", type(bare).__name__)
        self.batch, self.verifies = True, verifies

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[str], examples: Sequence[dict[str, Any]]
    ) -> list[float | None]:
        """The rewards of some completions; None for each one that the function leaves out."""
        return _rewards(self.function(**self._arguments(prompts, completions, examples)))

    def _arguments(
        self, prompts: Sequence[str], completions: Sequence[str], examples: Sequence[dict[str, Any]]
    ) -> dict[str, Any]:
        """What TRL's trainer passes, by name."""
        asked: list[Any] = list(prompts)
        said: list[Any] = list(completions)
        for i, example in enumerate(examples):
            chat = "messages" in example if self._conversational is None else self._conversational
            if chat:
                user = [{"role": "user", "content": prompts[i]}]
                asked[i] = example.get("messages") or user
                said[i] = [{"role": "assistant", "content": completions[i]}]
        left_out = {*_NOT_COLUMNS, "prompt", "messages", "completion", "prompts", "completions"}
        keys = {key: None for example in examples for key in example if key not in left_out}
        columns = {key: [example.get(key) for example in examples] for key in keys}
        if self._tokenizer is not None:
            encode = self._tokenizer.encode
            columns["completion_ids"] = [
                encode(completion, add_special_tokens=False) for completion in completions
            ]
        loggers = {"trainer_state": None, "log_extra": _ignore, "log_metric": _ignore}
        return {"prompts": asked, "completions": said, **columns, **loggers}

    def __deepcopy__(self, memo: dict[int, Any]) -> TRLReward:
        """The same object, as of any function."""
        return self


class AsyncTRLReward(TRLReward):
    """The same for a function that is ``async def``."""

    async def __call__(  # type: ignore[override]
        self, prompts: Sequence[str], completions: Sequence[str], examples: Sequence[dict[str, Any]]
    ) -> list[float | None]:
        """The rewards of some completions; None for each one that the function leaves out."""
        return _rewards(await self.function(**self._arguments(prompts, completions, examples)))


def from_trl_reward(
    function: Callable[..., Any],
    *,
    verifies: bool = False,
    conversational: bool | None = None,
    tokenizer: Any = None,
) -> TRLReward:
    """Make a reward function of this package from one that was written for TRL's ``GRPOTrainer``.

    It is called as TRL calls it, with a whole batch: ``function(prompts=..., completions=...,
    **columns)``. The columns are the keys of the examples; a key that one of them lacks is None
    there. ``trainer_state`` is None, and ``log_extra`` and ``log_metric`` log nothing.

    Args:
        function: plain or ``async def``; None among its rewards abstains, and so does NaN.
        verifies: whether 1.0 means that the completion is correct.
        conversational: whether prompts and completions are lists of messages. None: for examples
            with ``messages``. TRL's own reward functions always need lists.
        tokenizer: a tokenizer, or its name or folder, for functions that read ``completion_ids``;
            these are the completion's text encoded again, without an EOS.

    Raises:
        ConfigTypeError: if it is no function.
        ConfigError: if the function needs ``completion_ids``, and there is no tokenizer.
    """
    if not callable(function):
        raise ConfigTypeError(
            f"from_trl_reward takes a function fn(completions, **kwargs), got {function!r:.80}"
        )
    ids = inspect.signature(function).parameters.get("completion_ids")
    if tokenizer is None and ids is not None and ids.default is ids.empty:
        raise ConfigError(
            f"{getattr(function, '__name__', type(function).__name__)} reads completion_ids: give "
            "from_trl_reward the model's tokenizer too, tokenizer=NAME"
        )
    kind = AsyncTRLReward if is_async(function) else TRLReward
    loaded = None if tokenizer is None else load_tokenizer(tokenizer)
    return kind(function, verifies, conversational, loaded)


def _rewards(outcome: Iterable[Any]) -> list[float | None]:
    """Rewards as numbers, of Python's or of torch's; None for None and NaN, as TRL has it."""
    numbers = [None if value is None else float(value) for value in outcome]
    return [None if value is None or math.isnan(value) else value for value in numbers]


def _ignore(*logged: Any, **named: Any) -> None:
    """Log nothing."""


def _text(message: Any) -> str:
    """The text of a completion or a prompt; of a list of messages, the text of the last one."""
    if isinstance(message, str):
        return message
    content = message[-1].get("content") if message else None
    if isinstance(content, list):  # a list of blocks, some of which are text
        content = "".join(block.get("text", "") for block in content)
    return content or ""


def _log(
    components: list[dict[str, float]], log_metric: Callable[[str, float], None] | None
) -> None:
    if log_metric is None:
        return
    for name in sorted({name for row in components for name in row}):
        values = [row[name] for row in components if name in row]
        log_metric(f"components/{name}", sum(values) / len(values))
