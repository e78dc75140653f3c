"""Environments for training, from whatever a user names them by, and what they are."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from textenv.env import TextGenerationEnv, prescore_together
from textenv.errors import ConfigError, ConfigTypeError
from textenv.wrappers.step import DictStep


def make_env(env: Any, env_kwargs: dict[str, Any] | None = None) -> Any:
    """An environment from an id, a function that makes one, or one as it is.

    Raises:
        ConfigError: for ``env_kwargs`` without an id, or an id that cannot be made.
    """
    if isinstance(env, str):
        try:
            return gym.make(env, **(env_kwargs or {}))
        except gym.error.UnregisteredEnv as error:
            raise ConfigError(f"environment {env!r} is not registered: {error}") from error
        except gym.error.DependencyNotInstalled as error:
            raise ConfigError(f"environment {env!r} cannot be made: {error}") from error
    if env_kwargs:
        raise ConfigError("env_kwargs go with an environment's id, and env is not one")
    return env() if callable(env) else env


def make_training_env(env: Any, env_kwargs: dict[str, Any] | None, num_envs: int) -> Any:
    """As `make_env`, with ``num_envs`` copies side by side where the environment is of control.

    One environment of control, and any of text (a runner copies these as it needs them), is
    itself; several are a vector environment that resets in the same step.

    Raises:
        ConfigError: where there is one environment, and copies of it are wanted.
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
        return gym.make_vec(
            env,
            num_envs,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
            **(env_kwargs or {}),
        )
    if not callable(env):
        raise ConfigError(
            f"num_envs={num_envs} copies need an id or a function that makes environments, and "
            f"env is one environment, {env!r:.60}"
        )
    makers = [lambda: first, *[env] * (num_envs - 1)]
    return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)


def max_turns(env: Any) -> int:
    """Most steps that an episode of a text environment can have."""
    spec = getattr(env, "spec", None)
    if spec is None and hasattr(innermost(env), "get_attr"):  # a vector made of environments
        spec = innermost(env).get_attr("spec")[0]
    task = getattr(innermost(env), "task", None)
    turns: int | None = getattr(task, "max_turns", None)  # a TimeLimit leaves room for one more
    return turns or getattr(spec, "max_episode_steps", None) or 1


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
    """What a text environment is called: its id, its task, and how many examples that has."""
    inner = innermost(env)
    spec, task = getattr(env, "spec", None), getattr(inner, "task", None)
    words = [type(inner).__name__ if spec is None else spec.id]
    if task is not None:
        words.append(f"task {task.name}")
    if ids := getattr(task, "ids", None):
        words.append(f"{len(ids)} examples")
    return ", ".join(words)


def as_dict_step(env: Any) -> Any:
    """An environment whose steps are dicts.

    Raises:
        ConfigTypeError: for something else than an environment.
    """
    if isinstance(env, (gym.Env, VectorEnv)):
        return DictStep(env)
    if not (hasattr(env, "reset") and hasattr(env, "step")):
        raise ConfigTypeError(
            f"env must be a Gymnasium environment or step in dicts, got {type(env).__name__}"
        )
    return env


def copies(env: Any, count: int) -> list[DictStep]:
    """Environments like this one, made from its spec; none, with a warning, where they cannot be.

    Args:
        env: a single environment, or a `DictStep` of one.
        count: how many.
    """
    spec = getattr(env, "spec", None)
    try:
        if spec is None:
            raise ValueError("it has no spec")
        # Kwargs beside a bare spec are passed on as they are; those in a spec are deep-copied.
        kwargs = {**spec.kwargs, **getattr(innermost(env), "copy_kwargs", {})}
        bare = dataclasses.replace(spec, kwargs={})
        made = [DictStep(gym.make(bare, disable_env_checker=True, **kwargs)) for _ in range(count)]
    except (gym.error.Error, ValueError, TypeError) as error:
        name = type(innermost(env)).__name__
        warnings.warn(
            f"copies of {name} cannot be made ({error}): episodes are generated one after "
            "another, which is slow",
            stacklevel=9,
        )
        return []
    first = innermost(env)
    if isinstance(first, TextGenerationEnv):  # one process of reward functions is enough
        for copy in made:
            innermost(copy).reward = first.reward
    return made


def _passes_actions(wrapper: Any) -> bool:
    """Whether a wrapper is known to step with the action that it is given."""
    if isinstance(wrapper, gym.ActionWrapper):
        return False
    own_step = type(wrapper).step not in (
        gym.Wrapper.step,
        gym.ObservationWrapper.step,
        gym.RewardWrapper.step,
    )
    return not own_step or type(wrapper).__module__.startswith(("gymnasium.", "textenv."))


class Prescoring:
    """Begins to score actions before the copies of a text environment step.

    Nothing is begun where a wrapper may change actions.

    Args:
        envs: the environment and its copies.

    Attributes:
        early: whether it is of use to begin one by one: reward functions run elsewhere.
    """

    def __init__(self, envs: Sequence[Any]):
        self._envs = [innermost(env) for env in envs]
        first, layer = self._envs[0], envs[0]
        known = isinstance(first, TextGenerationEnv)
        while known and layer is not first:
            known, layer = _passes_actions(layer), layer.env
        self.early = known and first.reward.runs_elsewhere
        self._together = known and first.reward.takes_batches

    def begin(self, index: int, action: str) -> None:
        """Begin to score the next action of one of them, where that is of use."""
        if self.early:
            self._envs[index].prescore(action)

    def begin_all(self, actions: Mapping[int, str]) -> None:
        """As `begin`, for all that step next; functions that take a batch are called for all."""
        for index, action in actions.items():
            self.begin(index, action)
        if self._together:
            prescore_together([self._envs[i] for i in actions], list(actions.values()))
