"""Evaluates agents on the same fixed episodes, with deterministic actions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array

from textenv.algos.episodes.environments import max_turns, refuse_shared
from textenv.algos.episodes.stages import actions_by_lane
from textenv.algos.evaluation.measure import most_steps, refuse_endless
from textenv.algos.rollouts.runner import RolloutRunner
from textenv.errors import ConfigTypeError
from textenv.wrappers.copying import copied
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
        refuse_shared(self._envs)
        self._starts = list(starts)
        self._space = self._envs[0].observation_space
        self._actions = batch_space(self._envs[0].action_space, len(self._envs))
        self._most = most_steps(self._envs[0])

    def __call__(self, policy: Any) -> list[float]:
        """Play the episodes, and give the return of each.

        Args:
            policy: called as ``policy(observation, deterministic=True)``. If ``policy.batched``
                is true, it is given a batch of all episodes, because it may have a memory of each.
                An episode that is over stands there as it was before its last action.

        Raises:
            ConfigError: if an episode does not end.
        """
        envs = [DictStep(env) for env in self._envs]
        begun = [
            copied(env.reset(seed=seed, options=None if options is None else dict(options)))
            for env, (seed, options) in zip(envs, self._starts)
        ]
        observations = [start["observation"] for start in begun]
        infos = [start["info"] for start in begun]
        returns = [0.0] * len(envs)
        going = list(range(len(envs)))
        act = self._actor(policy)
        steps = 0
        while going:
            refuse_endless(self._envs[going[0]], steps, self._most)
            actions = act(observations, infos, going, not steps)
            steps += 1
            for i in list(going):
                step = copied(envs[i].step(actions[i]))
                returns[i] += float(step["reward"])
                if step["terminated"] or step["truncated"]:
                    going.remove(i)
                else:
                    observations[i], infos[i] = step["observation"], step["info"]
        return returns

    def close(self) -> None:
        """Close the environments."""
        for env in self._envs:
            env.close()

    def _actor(
        self, policy: Any
    ) -> Callable[[list[Any], list[Any], list[int], bool], Mapping[int, Any]]:
        """A function of observations, infos, the episodes that go on, and whether all begin."""
        if not callable(policy):
            raise ConfigTypeError(f"policy must be callable, got {type(policy).__name__}")
        takes = inspect.signature(policy).parameters
        batched = getattr(policy, "batched", False)

        def act(
            observations: list[Any], infos: list[Any], going: list[int], first: bool
        ) -> Mapping[int, Any]:
            if not batched:
                return {
                    i: self._ask(policy, takes, observations[i], infos[i], first) for i in going
                }
            count = len(observations)
            empty: Any = create_empty_array(self._space, n=count)
            batch = concatenate(self._space, observations, empty)
            actions = self._ask(policy, takes, batch, infos, np.full(count, first))
            return dict(enumerate(actions_by_lane(self._actions, actions, count)))

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
