"""Scores completions before the environments step, so that slow rewards begin early."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym

from textenv.algos.episodes.environments import innermost
from textenv.envs.env import TextGenerationEnv, prescore_together


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

    Nothing is begun if a wrapper may change the actions.

    Args:
        envs: the environment and its copies.

    Attributes:
        early: whether to begin as soon as a single action is known. That is so if the reward
            functions run elsewhere.
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
        """Begin to score the next action of one environment, if `early` is set."""
        if self.early:
            self._envs[index].prescore(action)

    def begin_all(self, actions: Mapping[int, str]) -> None:
        """Like `begin`, for all that step next; a reward on batches is called once for all."""
        for index, action in actions.items():
            self.begin(index, action)
        if self._together:
            prescore_together([self._envs[i] for i in actions], list(actions.values()))
