"""Evaluates agents on the same fixed episodes, with deterministic actions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import concatenate, create_empty_array

from textenv.algos.episodes.environments import max_turns
from textenv.algos.rollouts.runner import RolloutRunner
from textenv.errors import ConfigTypeError
from textenv.wrappers.step import DictStep

Evaluator = Callable[[Any], list[float]]
"""Plays the evaluation episodes with a policy, and gives their returns."""

EpisodeStart = tuple[int | None, Mapping[str, Any] | None]
"""The seed and the options of an episode's reset."""


class EpisodeEvaluator:
    """Plays fixed episodes side by side, each in an environment of its own.

    Args:
        make: makes an environment.
        starts: the resets of the episodes, the same at every call.
    """

    def __init__(self, make: Callable[[], gym.Env], starts: Sequence[EpisodeStart]):
        self._envs = [make() for _ in starts]
        self._starts = list(starts)
        self._space = self._envs[0].observation_space

    def __call__(self, policy: Any) -> list[float]:
        """Play the episodes, and give the return of each.

        Args:
            policy: called as ``policy(observation, deterministic=True)``. If ``policy.batched``
                is true, it is given a batch of all episodes, including those that are over.
        """
        envs = [DictStep(env) for env in self._envs]
        begun = [
            env.reset(seed=seed, options=None if options is None else dict(options))
            for env, (seed, options) in zip(envs, self._starts)
        ]
        observations = [start["observation"] for start in begun]
        infos = [start["info"] for start in begun]
        returns = [0.0] * len(envs)
        going = list(range(len(envs)))
        act = self._actor(policy)
        first = True
        while going:
            actions = act(observations, infos, first)
            first = False
            for i in list(going):
                step = envs[i].step(actions[i])
                observations[i], infos[i] = step["observation"], step["info"]
                returns[i] += float(step["reward"])
                if step["terminated"] or step["truncated"]:
                    going.remove(i)
        return returns

    def close(self) -> None:
        """Close the environments."""
        for env in self._envs:
            env.close()

    def _actor(self, policy: Any) -> Callable[[list[Any], list[Any], bool], Sequence[Any]]:
        if not callable(policy):
            raise ConfigTypeError(f"policy must be callable, got {type(policy).__name__}")
        takes = inspect.signature(policy).parameters
        batched = getattr(policy, "batched", False)

        def act(observations: list[Any], infos: list[Any], first: bool) -> Sequence[Any]:
            if not batched:
                return [
                    self._ask(policy, takes, observation, info, first)
                    for observation, info in zip(observations, infos)
                ]
            count = len(observations)
            empty: Any = create_empty_array(self._space, n=count)
            batch = concatenate(self._space, observations, empty)
            return self._ask(policy, takes, batch, infos, np.full(count, first))

        return act

    @staticmethod
    def _ask(policy: Any, takes: Any, observation: Any, infos: Any, start: Any) -> Any:
        given = {"infos": infos, "episode_start": start}
        passed = {name: value for name, value in given.items() if name in takes}
        return policy(observation, deterministic=True, **passed)[0]


class TextEvaluator:
    """Plays fixed examples of a text task with a language model.

    Args:
        env: an environment of the split to evaluate on.
        example_ids: ids of the examples, the same at every call.
    """

    def __init__(self, env: gym.Env, example_ids: Sequence[int]):
        self._env = env
        self._ids = list(example_ids)

    def __call__(self, policy: Any) -> list[float]:
        """Play the examples, and give the return of each."""
        runner = RolloutRunner(self._env, policy, max_steps=max_turns(self._env))
        played = runner.play(self._ids, deterministic=True)
        return [t.total_reward if t.is_scored else 0.0 for t in played]

    def close(self) -> None:
        """Close the environment."""
        self._env.close()
