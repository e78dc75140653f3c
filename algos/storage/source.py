"""Records where a rollout comes from, and checks that it fits the environment it is used for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Space
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv

from textenv.algos.config import check_integer
from textenv.algos.episodes.trajectory import Buffer, RolloutSource
from textenv.algos.runtime.versions import versions
from textenv.algos.storage.checkpoints.state import State
from textenv.algos.storage.files import load_rollout
from textenv.algos.storage.space_json import describe_space, make_space
from textenv.errors import DataError

# Arguments that make_vec adds to those of a vector environment.
_OF_VECTORS = ("num_envs", "vectorization_mode", "vector_kwargs")


def describe_source(
    runner_or_env: Any,
    policy: Any = None,
    *,
    gamma: float | None = None,
    gae_lambda: float | None = None,
) -> RolloutSource:
    """Describe where a rollout comes from, for its file.

    Args:
        runner_or_env: the `RolloutRunner` that collected it, or its environment: single, vector,
            or in a `textenv.wrappers.DictStep`.
        policy: the policy that played, recorded by its ``fingerprint()`` if it has one; None is the
            runner's own policy.
        gamma: the discount of the algorithm that the rollout is collected for.
        gae_lambda: the lambda of that algorithm's advantages.

    Raises:
        ConfigError: for a space that cannot be described as JSON; names it.
    """
    runner = runner_or_env if hasattr(runner_or_env, "policy_version") else None
    env = runner_or_env if runner is None else runner.env
    if policy is None and runner is not None:
        policy = runner.policy
    env_id, kwargs = _spec(env)
    spec = _single_spec(env)
    observation_space, action_space = single_spaces(env)
    fingerprint = getattr(policy, "fingerprint", None)
    return RolloutSource(
        env_id=env_id,
        env_kwargs=_plain(kwargs),
        env_wrappers=None if spec is None else _wrappers(env, spec),
        num_envs=getattr(_vector(env), "num_envs", 1),
        seed=getattr(runner, "seed", None),
        observation_space=describe_space(observation_space),
        action_space=describe_space(action_space),
        policy_hash=fingerprint() if callable(fingerprint) else None,
        policy_version=getattr(runner, "policy_version", None),
        gamma=gamma,
        gae_lambda=gae_lambda,
        versions=versions(),
    )


class Exporter:
    """Writes rollouts of a training to a folder, each with a record of its source.

    Args:
        folder: the folder; None writes nothing.
        every: write one of each so many rollouts, the first.

    Attributes:
        last: the file of the latest rollout; None if that one was not written.
    """

    def __init__(self, folder: str | Path | None, every: int = 1):
        check_integer("export_every", every, 1)
        self._folder = None if folder is None else Path(folder)
        self._every, self._seen = every, 0
        self.last: Path | None = None

    def write(self, rollout: Buffer, runner: Any, **facts: float | None) -> None:
        """Write a rollout, if it is one of those to write.

        Call this before the policy that collected the rollout is changed.

        Args:
            rollout: what was collected.
            runner: the `RolloutRunner` that collected it.
            facts: ``gamma`` and ``gae_lambda``, as in `describe_source`.
        """
        self.last = None
        if self._folder is not None and self._seen % self._every == 0:
            rollout.source = describe_source(runner, **facts)
            self.last = rollout.save(self._folder)
        self._seen += 1

    def inspect(self, rollout: Buffer, trained: Any, step: int, rows: int | None = None) -> None:
        """Keep what only the trainer knows of a rollout that was written; here nothing more."""

    @property
    def written(self) -> int:
        """How many rollouts were written."""
        return 0 if self._folder is None else -(-self._seen // self._every)

    def state(self) -> State:
        """How many rollouts there were."""
        return State(values={"seen": self._seen})

    def load_state(self, state: State) -> None:
        """Go on from what `state` gave."""
        self._seen = state.value("seen")


def check_source(rollout: Buffer | str | Path, env: Any) -> None:
    """Refuse a rollout that was collected in another environment.

    If the rollout does not name its spaces (a transcript does not), its observations and actions
    must be members of the environment's.

    Args:
        rollout: a rollout, or its file.
        env: the environment to use it for: single, vector, or in a ``DictStep``.

    Raises:
        DataError: if the id or the spaces of the environment differ; names both.
    """
    name = "the rollout" if isinstance(rollout, Buffer) else str(rollout)
    rollout = rollout if isinstance(rollout, Buffer) else load_rollout(rollout)
    env_id, _ = _spec(env)
    here = env_id or type(getattr(env, "unwrapped", env)).__name__
    source = rollout.source or RolloutSource()
    there = source.env_id or "an environment without an id"
    if None not in (env_id, source.env_id) and env_id != source.env_id:
        raise DataError(f"{name} was made for {there}, and this is {here}")
    for what, space in zip(("observation", "action"), single_spaces(env)):
        said = getattr(source, f"{what}_space")
        if said is not None and said != describe_space(space):
            raise DataError(
                f"{name} was made for {there} with {what} space {make_space(said)}, and {here} "
                f"has {space}"
            )
        if said is None:
            for trajectory in rollout:
                for item in getattr(trajectory, f"{what}s")[:1]:
                    if not space.contains(item):
                        raise DataError(
                            f"{name} holds the {what} {item!r:.80}, which is not in the {what} "
                            f"space of {here}, {space}"
                        )


def _vector(env: Any) -> VectorEnv | None:
    """The vector environment that this is, or that a DictStep wraps; None if there is none."""
    inner = getattr(env, "env", None)
    if isinstance(inner, VectorEnv) and not isinstance(env, VectorEnv):
        return inner
    return env if isinstance(env, VectorEnv) else None


def single_spaces(env: Any) -> tuple[Space, Space]:
    """Observation and action space of a single environment, also if this is a vector of them."""
    vector = _vector(env)
    if vector is not None:
        return vector.single_observation_space, vector.single_action_space
    return env.observation_space, env.action_space


def _single_spec(env: Any) -> Any:
    """Gymnasium's spec of a single environment; None if there is none."""
    inner = getattr(_vector(env), "unwrapped", None)
    if isinstance(inner, (SyncVectorEnv, AsyncVectorEnv)):
        return inner.get_attr("spec")[0]  # of one of them
    return getattr(env, "spec", None)


def _spec(env: Any) -> tuple[str | None, dict[str, Any]]:
    """Id of a single environment, and the arguments that ``gym.make`` was given beside it."""
    spec = _single_spec(env)
    if spec is None:
        return None, {}
    kwargs = {key: value for key, value in spec.kwargs.items() if key not in _OF_VECTORS}
    registered = gym.registry.get(spec.id)
    limit = kwargs.pop("max_episode_steps", spec.max_episode_steps)  # a kwarg of some vectors
    if registered is not None and registered.max_episode_steps != limit:
        kwargs["max_episode_steps"] = limit
    return spec.id, kwargs


def _wrappers(env: Any, spec: Any) -> list[dict[str, Any]] | None:
    """The wrappers of a single environment; None if others, of a vector, change its spaces."""
    vector = _vector(env)
    if vector is not None and single_spaces(vector) != _bare_spaces(vector.unwrapped):
        return None
    return [
        {
            "name": wrapper.name,
            "entry_point": wrapper.entry_point,
            "kwargs": None if wrapper.kwargs is None else _plain(wrapper.kwargs),
        }
        for wrapper in spec.additional_wrappers
    ]


def _bare_spaces(vector: Any) -> tuple[Space, Space]:
    """The spaces of a vector's single environment, without the wrappers of the vector."""
    venv = getattr(vector, "venv", None)  # of Stable-Baselines3
    if venv is None:
        return single_spaces(vector)
    return venv.unwrapped.observation_space, venv.unwrapped.action_space


def _plain(value: Any) -> Any:
    """An argument of ``gym.make`` as JSON; anything that JSON cannot hold by its name."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Path):
        return str(value)
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"<{named.__module__}.{named.__qualname__}>"
