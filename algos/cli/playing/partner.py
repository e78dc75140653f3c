"""The policy that a person may ask while playing, and may play against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym

from textenv.algos.cli.rollout import load_control_policy
from textenv.algos.control.random_policy import RandomPolicy
from textenv.algos.episodes.environments import is_text
from textenv.algos.episodes.policy_call import PolicyCall

MOST_STEPS = 10_000
"""Steps after which the policy's episode is left, in an environment that never ends it."""


class Partner:
    """A policy that answers one observation at a time, with its most probable action.

    Args:
        policy: any policy.
    """

    def __init__(self, policy: Any):
        self._call = PolicyCall(policy)
        self._call.deterministic = True

    def action(self, observation: Any, info: dict[str, Any], starts: bool) -> Any:
        """What the policy does here.

        Args:
            observation: what a player sees.
            info: the info of the observation.
            starts: whether an episode begins with it.
        """
        return self._call(observation, infos=info, episode_start=starts)[0]

    def play(
        self, env: gym.Env, on_step: Callable[[Any], None] = lambda action: None, **start: Any
    ) -> tuple[float, int]:
        """Play a whole episode.

        Args:
            env: the environment.
            on_step: called with each action.
            start: the arguments of the reset.

        Returns:
            The total reward, and the number of steps.
        """
        observation, info = env.reset(**start)
        total, steps, over = 0.0, 0, False
        while not over and steps < MOST_STEPS:
            action = self.action(observation, info, steps == 0)
            on_step(action)
            observation, reward, terminated, truncated, info = env.step(action)
            total, steps, over = total + float(reward), steps + 1, terminated or truncated
        return total, steps


def make_partner(name: str, env: gym.Env, max_tokens: int, seed: int) -> Partner:
    """The policy that a command line names.

    Args:
        name: random; for control the folder of a policy, for text a model.
        env: the environment that it is to play.
        max_tokens: the longest answer in tokens.
        seed: seed of its noise.

    Raises:
        ConfigError: for a policy of other spaces.
        MissingFileError: if there is no such model or folder.
        DataError: if the folder holds something else.
    """
    if name == "random":
        return Partner(RandomPolicy(env.action_space, seed))
    if not is_text(env):
        return Partner(load_control_policy(name, env, seed))
    from textenv.algos.lm.generation.policy import create_policy
    from textenv.algos.lm.models.loading import load_model

    return Partner(create_policy(*load_model(name), {"max_tokens": max_tokens, "seed": seed}))
