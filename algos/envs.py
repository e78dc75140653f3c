"""Environments for training, from whatever a user names them by."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from textenv.algos.rollout import is_text
from textenv.errors import ConfigError


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
