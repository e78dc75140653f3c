"""Makes environments from an id, a function or an object, and tells what kind they are."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from textenv.envs.env import TextGenerationEnv
from textenv.errors import ConfigError, ConfigTypeError
from textenv.wrappers.step import (
    CheckedStep,
    DictStep,
    Step,
    standardize_reset,
    standardize_step,
)


def make_env(env: Any, env_kwargs: dict[str, Any] | None = None) -> Any:
    """Make an environment from its id or by a function; an environment is returned as it is.

    Raises:
        ConfigError: for ``env_kwargs`` without an id, or an id that cannot be made.
    """
    if isinstance(env, str):
        try:
            return gym.make(env, **(env_kwargs or {}))
        except gym.error.UnregisteredEnv as error:
            raise ConfigError(f"environment {env!r} is not registered: {error}") from error
        except (gym.error.Error, ModuleNotFoundError) as error:  # an id or a module that is none
            raise ConfigError(f"environment {env!r} cannot be made: {error}") from error
    if env_kwargs:
        raise ConfigError("env_kwargs go with an environment's id, and env is not one")
    return env() if callable(env) else env


def make_training_env(env: Any, env_kwargs: dict[str, Any] | None, num_envs: int) -> Any:
    """Make an environment as `make_env` does; for control, ``num_envs`` of them side by side.

    Several environments of control become a vector environment that resets in the same step. An
    environment of text stays single: a runner copies it as it needs it.

    Raises:
        ConfigError: if ``env`` is one environment, and ``num_envs`` asks for copies of it, if it is
            a function that gives the same one again, or if a vector environment has another number.
    """
    if isinstance(env, VectorEnv):
        if num_envs not in (1, env.num_envs):
            raise ConfigError(f"num_envs={num_envs}, and the environment has {env.num_envs}")
        return env
    first = make_env(env, env_kwargs)
    if num_envs == 1 or is_text(first) or isinstance(first, VectorEnv):
        return first
    if isinstance(env, str):
        first.close()
        vector = gym.make_vec(
            env,
            num_envs,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
            **(env_kwargs or {}),
        )
        refuse_shared(vector.unwrapped.envs)  # type: ignore[attr-defined]
        return vector
    if not callable(env):
        raise ConfigError(
            f"num_envs={num_envs} copies need an id or a function that makes environments, and "
            f"env is one environment, {env!r:.60}"
        )
    made = [CheckedStep(first), *(CheckedStep(env()) for _ in range(num_envs - 1))]
    refuse_shared(made)
    makers = [partial(lambda one: one, one) for one in made]
    return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)


def refuse_shared(envs: Sequence[Any]) -> None:
    """Refuse environments that are to be played side by side if two are one and the same object.

    Raises:
        ConfigError: if that is so.
    """
    if len({id(innermost(env)) for env in envs}) < len(envs):
        raise ConfigError(
            f"{len(envs)} environments were to be made, and the function that makes them gave the "
            f"same {type(innermost(envs[0])).__name__} more than once: their episodes would be "
            "mixed. It must make a new environment at each call"
        )


def max_turns(env: Any) -> int:
    """The largest number of steps that an episode of a text environment can have."""
    spec = getattr(env, "spec", None)
    if spec is None and hasattr(innermost(env), "get_attr"):  # a vector made of environments
        spec = innermost(env).get_attr("spec")[0]
    task = getattr(innermost(env), "task", None)
    turns: int | None = getattr(task, "max_turns", None)  # a TimeLimit leaves room for one more
    return turns or getattr(spec, "max_episode_steps", None) or 1


def task_name(env: Any) -> str | None:
    """The name of an environment's task, or else its id; None if it has neither."""
    name = getattr(getattr(innermost(env), "task", None), "name", None)
    return name or getattr(getattr(env, "spec", None), "id", None)


def is_text(env: Any) -> bool:
    """Whether the actions of an environment, single or vector, are text."""
    inner = getattr(env, "env", None)
    if isinstance(inner, VectorEnv):  # in a DictStep
        env = inner
    space = getattr(env, "single_action_space", getattr(env, "action_space", None))
    return isinstance(space, gym.spaces.Text)


def innermost(env: Any) -> Any:
    """An environment without its wrappers."""
    return getattr(env, "unwrapped", env)


def title(env: Any) -> str:
    """A text environment in words: its id, its task, and the number of its examples."""
    inner = innermost(env)
    spec, task = getattr(env, "spec", None), getattr(inner, "task", None)
    words = [type(inner).__name__ if spec is None else spec.id]
    if task is not None:
        words.append(f"task {task.name}")
        if getattr(task, "style", "plain") != "plain":
            words.append(f"style {task.style}")
    if ids := getattr(task, "ids", None):
        words.append(f"{len(ids)} examples")
    return ", ".join(words)


class _CheckedEnv:
    """Checks what an environment returns that steps in dicts by itself."""

    def __init__(self, env: Any):
        self._env = env

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    @property
    def unwrapped(self) -> Any:
        """The innermost environment."""
        return getattr(self._env, "unwrapped", self._env)

    def reset(self, **kwargs: Any) -> dict[str, Any]:
        """Start an episode: ``{"observation", "info"}``."""
        return standardize_reset(self._env.reset(**kwargs))

    def step(self, action: Any) -> Step:
        """Take an action: ``{"observation", "reward", "terminated", "truncated", "info"}``."""
        return standardize_step(self._env.step(action))


def as_dict_step(env: Any) -> Any:
    """The environment with resets and steps as dicts, which are checked.

    Raises:
        ConfigTypeError: if it is not an environment.
    """
    if isinstance(env, (gym.Env, VectorEnv)):
        return DictStep(env)
    if isinstance(env, DictStep):
        return env
    if not (hasattr(env, "reset") and hasattr(env, "step")):
        raise ConfigTypeError(
            f"env must be a Gymnasium environment or step in dicts, got {type(env).__name__}"
        )
    return _CheckedEnv(env)


def copies(env: Any, count: int) -> list[DictStep]:
    """Make more environments like this one from its spec; none, with a warning, if that fails.

    Args:
        env: a single environment, or a `DictStep` of one.
        count: how many environments to make.
    """
    spec = getattr(env, "spec", None)
    try:
        if spec is None:
            raise ValueError("it has no spec")
        # Gymnasium deep-copies the kwargs of a spec, and passes those beside it on as they are.
        kwargs = {**spec.kwargs, **getattr(innermost(env), "copy_kwargs", {})}
        bare = dataclasses.replace(spec, kwargs={})
        made = [DictStep(gym.make(bare, disable_env_checker=True, **kwargs)) for _ in range(count)]
        refuse_shared([env, *made])
    except (gym.error.Error, ValueError, TypeError) as error:
        name = type(innermost(env)).__name__
        warnings.warn(
            f"copies of {name} cannot be made ({error}): episodes are generated one after "
            "another, which is slow",
            stacklevel=7,
        )
        return []
    first = innermost(env)
    if isinstance(first, TextGenerationEnv):  # one process of reward functions serves all copies
        for copy in made:
            innermost(copy).reward = first.reward
    return made
