"""One episode while it is played, and the trajectory that records it.

A *lane* is one environment's place in a rollout, whether the environment stands alone or in a
vector environment. Episodes follow one another in a lane.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from textenv.algos.episodes.trajectory import Trajectory
from textenv.errors import ConfigError, RewardError
from textenv.wrappers.step import Step

# The extras of a policy that are appended once a step, and the fields that they are appended to.
_BY_STEP = {"value": "values", "logprob": "logprobs", "unclipped_action": "unclipped_actions"}


LARGEST_REWARD = 1e15
"""The largest reward that is trained on: the sum of many squares of it is a float32."""


def check_reward(reward: Any, where: str) -> float:
    """Check that a reward can be trained on, and return it as a float.

    Args:
        reward: a number, or an array without dimensions.
        where: whose reward it is, for messages.

    Raises:
        RewardError: if it is NaN, infinite, or larger than `LARGEST_REWARD`.
    """
    value = float(reward)
    if not abs(value) <= LARGEST_REWARD:
        raise RewardError(
            f"{where} has a reward of {value:g}; a reward must be a finite number, at most "
            f"{LARGEST_REWARD:g} in size"
        )
    return value


class PlayedTurn(NamedTuple):
    """One turn of a played episode of text: the policy's answer, and the reply to it."""

    action: str
    extras: dict[str, Any]
    """What the policy recorded of its answer."""
    observation: str
    """What the environment replied."""


class Lane:
    """The present episode of one environment, and the trajectory that records it.

    It keeps the observations, actions and infos that it is given, so these must be copies.

    Args:
        start: ``{"observation", "info"}`` of the reset.
        policy_version: how many optimizer steps had changed the policy before.
        seed: the seed of the reset; None if the reset had none of its own.
        env_index: the number of the environment among the parallel ones.
        noise: seed of the policy's noise in this episode; None leaves the noise to the policy.
        group_id: the group of trajectories that start alike; None if there are no groups.
        episode: the number of the episode among those of its lane; None: they are not counted.
    """

    def __init__(
        self,
        start: dict[str, Any],
        policy_version: int,
        seed: int | None = None,
        env_index: int | None = None,
        noise: int | None = None,
        group_id: int | None = None,
        episode: int | None = None,
    ):
        self._noise = noise
        self.observation = start["observation"]
        self.info = start["info"]
        """What the policy is shown beside the observation; when the episode is over, still the
        info before its last action: an action mask of what is over may allow nothing."""
        self.starts = True
        """Whether the next action is the first of its episode."""
        self.trajectory = Trajectory(
            seed=seed,
            group_id=group_id,
            policy_version=policy_version,
            env_index=env_index,
            episode=episode,
            reset_info=start["info"],
            final_observation=start["observation"],
        )
        if isinstance(self.observation, str):
            self.trajectory.prompt = self.observation

    @property
    def ended(self) -> bool:
        """Whether the episode is over."""
        return self.trajectory.terminated or self.trajectory.truncated

    @property
    def context(self) -> list[int] | None:
        """Token ids of the episode so far; None if the policy has recorded none yet."""
        if self.trajectory.prompt_ids is None:
            return None
        return self.trajectory.prompt_ids + (self.trajectory.token_ids or [])

    @property
    def noise(self) -> int | None:
        """The seed of the next action's noise, another one each turn; None: the policy's own."""
        return None if self._noise is None else self._noise + len(self.trajectory)

    def record(self, action: Any, extras: dict[str, Any], step: Step) -> None:
        """Add a transition to the trajectory, with what the policy recorded beside it."""
        trajectory = self.trajectory
        trajectory.observations.append(self.observation)
        trajectory.actions.append(action)
        reward = check_reward(step["reward"], f"step {len(trajectory)} of the environment")
        trajectory.rewards.append(reward)
        trajectory.infos.append(step["info"])
        trajectory.terminated, trajectory.truncated = step["terminated"], step["truncated"]
        trajectory.final_observation = step["observation"]
        self.observation, self.starts = step["observation"], False
        if not self.ended:
            self.info = step["info"]
        for key, name in _BY_STEP.items():
            if key in extras:
                if getattr(trajectory, name) is None:
                    setattr(trajectory, name, [])
                value = extras[key]
                getattr(trajectory, name).append(
                    value if key == "unclipped_action" else float(value)
                )
        if "token_ids" in extras:
            _record_tokens(trajectory, extras)

    def cut(self, policy_version: int) -> Lane:
        """The rest of an episode that the end of a rollout cuts, with a trajectory of its own."""
        start = {"observation": self.observation, "info": self.info}
        before = self.trajectory
        rest = Lane(start, policy_version, env_index=before.env_index, episode=before.episode)
        rest.trajectory.first_step = before.first_step + len(before)
        rest.starts = self.starts
        return rest


def replay(
    lanes: Sequence[Lane],
    turns: Sequence[Sequence[PlayedTurn]],
    step: Callable[[dict[int, Any]], dict[int, Step]],
) -> None:
    """Play again the turns that other episodes from the same starts had.

    Args:
        lanes: episodes that have just begun.
        turns: for each lane the turns to play, none of which ended its episode.
        step: takes the actions of some lanes, by index, and gives their steps.

    Raises:
        ConfigError: if an environment answers something else this time.
    """
    for t in range(max(map(len, turns), default=0)):
        here = {i: some[t] for i, some in enumerate(turns) if t < len(some)}
        answers = step({i: turn.action for i, turn in here.items()})
        for i, turn in here.items():
            lanes[i].record(turn.action, turn.extras, answers[i])
            if lanes[i].ended or lanes[i].observation != turn.observation:
                raise ConfigError(
                    f"turn {t + 1} was played again and the environment answered "
                    f"{lanes[i].observation!r:.80}; before, it had answered "
                    f"{turn.observation!r:.80}: branches after a turn need an environment whose "
                    "answers follow from its seed and the actions alone"
                )


def _record_tokens(trajectory: Trajectory, extras: dict[str, Any]) -> None:
    """Append the tokens of a turn, after those that the environment said since the last one.

    Raises:
        ValueError: if the policy's prompt does not begin with the tokens of the episode so far.
    """
    prompt_ids, token_ids = list(extras["prompt_ids"]), list(extras["token_ids"])
    count = len(token_ids)
    logprobs = list(extras["token_logprobs"])
    entropies = list(extras.get("token_entropies") or [0.0] * count)
    support = extras.get("support")
    if extras.get("truncated") is not None:
        was_cut = bool(trajectory.completion_truncated)  # in an earlier turn
        trajectory.completion_truncated = was_cut or bool(extras["truncated"])
    trajectory.temperature = extras.get("temperature")
    if trajectory.prompt_ids is None:
        trajectory.prompt_ids = prompt_ids
        trajectory.token_ids, trajectory.token_mask = token_ids, [1] * count
        trajectory.token_logprobs, trajectory.token_entropies = logprobs, entropies
        trajectory.support = None if support is None else list(support)
        return
    before = trajectory.prompt_ids + (trajectory.token_ids or [])
    if prompt_ids[: len(before)] != before:
        raise ValueError(
            "the policy encoded its own earlier turns again and got other tokens; a policy of "
            "many turns must go on from the token ids that it sampled"
        )
    said = prompt_ids[len(before) :]  # by the environment
    trajectory.token_ids = before[len(trajectory.prompt_ids) :] + said + token_ids
    trajectory.token_mask = (trajectory.token_mask or []) + [0] * len(said) + [1] * count
    silence = [0.0] * len(said)
    trajectory.token_logprobs = (trajectory.token_logprobs or []) + silence + logprobs
    trajectory.token_entropies = (trajectory.token_entropies or []) + silence + entropies
    if trajectory.support is not None and support is not None:
        trajectory.support += [np.array([token], np.int32) for token in said] + list(support)
