"""Records what happened in an environment: transitions, trajectories, and buffers of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from textenv.errors import ConfigTypeError


class Transition(NamedTuple):
    """One step of an environment."""

    observation: Any
    action: Any
    reward: float
    next_observation: Any
    terminated: bool
    truncated: bool
    info: dict[str, Any]


@dataclass(eq=False)
class Trajectory:
    """The transitions of one episode, or of the part of it that was seen.

    It holds T observations, actions, rewards and infos, one of each for every step. What the
    policy records beside them is None if the policy does not record it.
    """

    observations: list[Any] = field(default_factory=list)
    """What the policy saw before each action."""
    actions: list[Any] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    """The rewards as the environment gave them."""
    infos: list[dict[str, Any]] = field(default_factory=list)
    """The info of each step."""
    final_observation: Any = None
    """The observation after the last action."""
    terminated: bool = False
    """Whether the environment ended the episode."""
    truncated: bool = False
    """Whether a limit ended it. If neither flag is set, the rollout ended before the episode."""
    reset_info: dict[str, Any] = field(default_factory=dict)
    """The info of the reset."""
    seed: int | None = None
    """The seed that the episode was reset with."""
    group_id: int | None = None
    """The number of its group; trajectories from the same starting point share it."""
    policy_version: int | None = None
    """How many optimizer steps had changed the policy before it played the episode."""
    env_index: int | None = None
    """The number of its environment among the parallel ones."""
    episode: int | None = None
    """The number of its episode among those of its environment, from 0; None: not counted."""
    first_step: int = 0
    """At which step of the episode it begins; more than 0 if an earlier rollout has the beginning.
    """

    values: list[float] | None = None
    """The critic's value of each observation."""
    last_value: float | None = None
    """The critic's value of ``final_observation``, if the episode did not terminate there."""
    logprobs: list[float] | None = None
    """Log-probability of each action."""
    unclipped_actions: list[Any] | None = None
    """What the policy drew, if ``actions`` are the same clipped to the bounds of a Box."""

    prompt: str | None = None
    """The first observation, if it is text."""
    prompt_ids: list[int] | None = None
    """Token ids of the first observation."""
    token_ids: list[int] | None = None
    """All tokens after the prompt: the policy's, and between turns the environment's."""
    token_mask: list[int] | None = None
    """1 for each of ``token_ids`` that the policy chose."""
    token_logprobs: list[float] | None = None
    """Log-probability of each of ``token_ids`` when it was sampled; 0 where the mask is 0."""
    token_entropies: list[float] | None = None
    """Entropy in nats of the distribution of each token; 0 where the mask is 0."""
    support: list[Any] | None = None
    """For each of ``token_ids``, the ids that could be drawn; None if all could be."""
    temperature: float | None = None
    """What the logits were divided by when the tokens were sampled."""
    completion_truncated: bool | None = None
    """Whether any completion of it ran out of tokens before it ended; None if nobody knows."""

    parent: int | None = None
    """Index in its group of the trajectory that this one branched from."""
    branch_at: int | None = None
    """Position in ``token_ids`` of the first token that it does not share with its parent."""
    shaping: float | None = None
    """What is added to the total reward when advantages are computed; a strategy sets it."""
    token_weights: list[float] | None = None
    """Weight of each of ``token_ids`` in the loss; None: 1 for all."""
    token_advantages: list[float] | None = None
    """Advantage of each of ``token_ids``; None: that of the trajectory in its group."""

    def __len__(self) -> int:
        return len(self.actions)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Trajectory):
            return NotImplemented
        return all(_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    @property
    def transitions(self) -> list[Transition]:
        """The steps one by one.

        Where observations were not recorded they are None, rewards 0, and infos empty.
        """
        count = len(self)
        before = self.observations or [None] * count
        rewards, infos = self.rewards or [0.0] * count, self.infos or [{}] * count
        after = [*before[1:], self.final_observation]
        last = count - 1
        return [
            Transition(
                before[t],
                self.actions[t],
                rewards[t],
                after[t],
                self.terminated and t == last,
                self.truncated and t == last,
                infos[t],
            )
            for t in range(count)
        ]

    @property
    def own_from(self) -> int:
        """Position in ``token_ids`` of the first token that it does not share with its parent."""
        return self.branch_at or 0

    @property
    def is_scored(self) -> bool:
        """Whether a reward function scored any step; False if all of them abstained."""
        return not self.infos or any(info.get("scored") is not False for info in self.infos)

    @property
    def total_reward(self) -> float:
        """Sum of the rewards: what a group of trajectories is compared by; NaN if not scored."""
        return float(sum(self.rewards)) if self.is_scored else float("nan")

    @property
    def is_correct(self) -> bool | None:
        """Whether the task's verifier judged the last answer right; None if it did not say."""
        verdict = self.infos[-1].get("is_correct") if self.infos else None
        return None if verdict is None else bool(verdict)


@dataclass
class RolloutSource:
    """Where a rollout comes from, for readers of its file."""

    env_id: str | None = None
    """Gymnasium's id of the environment; None if it has no spec."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """What ``gym.make`` was given beside the id."""
    env_wrappers: list[dict[str, Any]] | None = None
    """The wrappers put around what ``gym.make`` gives, from the inside out, each with its ``name``,
    ``entry_point`` and ``kwargs`` (None if they were not recorded); None if they are not known."""
    num_envs: int = 1
    """Parallel environments that shared the transitions."""
    seed: int | None = None
    """The seed of the runner that collected it."""
    observation_space: dict[str, Any] | None = None
    """The observation space of a single environment, as JSON."""
    action_space: dict[str, Any] | None = None
    """The action space of a single environment, as JSON."""
    policy_hash: str | None = None
    """SHA-256 of the policy's weights, and of what else decides its actions."""
    policy_version: int | None = None
    """How many optimizer steps had changed the policy before the rollout."""
    gamma: float | None = None
    """Discount that the algorithm uses."""
    gae_lambda: float | None = None
    """The lambda of the algorithm's advantages."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of the libraries that made the rollout, by name."""


class Buffer:
    """Holds trajectories for training.

    Its length is the number of its trajectories, and iterating over it gives them.

    Attributes:
        source: where the trajectories come from, if that is known.
    """

    def __init__(
        self, trajectories: Iterable[Trajectory] = (), source: RolloutSource | None = None
    ):
        self.source = source
        self._trajectories: list[Trajectory] = []
        for trajectory in trajectories:
            self.add(trajectory)

    def __len__(self) -> int:
        return len(self._trajectories)

    def __iter__(self) -> Iterator[Trajectory]:
        return iter(self._trajectories)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Buffer):
            return NotImplemented
        return self.source == other.source and self._trajectories == other._trajectories

    __hash__ = None  # type: ignore[assignment]  # mutable, compared by value

    @property
    def trajectories(self) -> list[Trajectory]:
        """The trajectories in the order they were added."""
        return list(self._trajectories)

    @property
    def num_transitions(self) -> int:
        """Transitions in all trajectories together."""
        return sum(map(len, self._trajectories))

    def add(self, trajectory: Trajectory) -> None:
        """Add one trajectory.

        Raises:
            ConfigTypeError: if it is not a `Trajectory`.
        """
        if not isinstance(trajectory, Trajectory):
            raise ConfigTypeError(f"a buffer holds trajectories, got {type(trajectory).__name__}")
        self._trajectories.append(trajectory)

    def clear(self) -> None:
        """Remove all trajectories, as on-policy training does after an update."""
        self._trajectories.clear()

    def save(self, path: str | Path) -> Path:
        """Write the rollout to a file, in the format that the name ends with.

        Raises:
            ConfigError: for a format that is not known.
        """
        from textenv.algos.storage.files import save_rollout

        return save_rollout(self, path)


def scored_rewards(trajectories: Iterable[Trajectory]) -> list[float]:
    """The total rewards of those trajectories that were scored."""
    return [t.total_reward for t in trajectories if t.is_scored]


def policy_tokens(trajectories: Iterable[Trajectory]) -> int:
    """How many tokens the policy sampled for these; a beginning that branches share counts once."""
    return sum(sum((t.token_mask or ())[t.own_from :]) for t in trajectories)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.array_equal(np.asarray(a), np.asarray(b))
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    return bool(a == b)
