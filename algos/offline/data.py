"""Prepares saved rollouts for offline training: joins episodes, checks sources and policies.

A rollout cuts the episodes that are not over when it ends; the rest of them is in the next one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gymnasium.spaces import Space

from textenv.algos.control.mlp_policy import MLPPolicy
from textenv.algos.control.mlp_training import transition_arrays
from textenv.algos.episodes.episode import check_reward
from textenv.algos.episodes.parts import EpisodeParts
from textenv.algos.episodes.trajectory import Buffer, RolloutSource, Trajectory
from textenv.algos.storage.source import single_spaces
from textenv.algos.storage.space_json import make_space
from textenv.errors import ConfigError, DataError

_BY_STEP = ("observations", "actions", "rewards", "infos")
_BY_STEP_OR_NONE = ("values", "logprobs", "unclipped_actions")


@dataclass
class JoinedEpisode:
    """An episode joined from the trajectories of several rollouts, as far as these have it."""

    trajectory: Trajectory
    whole: bool
    """Whether the episode is complete, from its reset to its end."""


def join_episodes(rollouts: Sequence[Buffer]) -> list[JoinedEpisode]:
    """Join the trajectories of several rollouts into episodes, in the order of their beginnings.

    Each trajectory says which episode of which environment it is of, and at which step of it it
    begins. Two are joined if the second begins where the first ended, and with the very observation
    that the first ended with (files of two runs may be in one folder).

    Args:
        rollouts: the rollouts, in the order in which they were collected.
    """
    parts: list[list[Trajectory]] = []
    numbers: EpisodeParts[int] = EpisodeParts()  # of the episodes that are not over
    for rollout in rollouts:
        for trajectory in rollout:
            if not len(trajectory):
                continue
            number = numbers.take(trajectory)
            if number is None or not _same(
                parts[number][-1].final_observation, trajectory.observations[0]
            ):
                number = len(parts)
                parts.append([])
            parts[number].append(trajectory)
            if not (trajectory.terminated or trajectory.truncated):
                numbers.keep(trajectory, number)
    return [
        JoinedEpisode(_joined(p), not p[0].first_step and (p[-1].terminated or p[-1].truncated))
        for p in parts
    ]


def mean_return(episodes: Sequence[JoinedEpisode]) -> float | None:
    """Mean return of the complete episodes; None if there are none."""
    returns = [e.trajectory.total_reward for e in episodes if e.whole]
    return float(np.mean(returns)) if returns else None


def best_episodes(episodes: Sequence[JoinedEpisode], share: float) -> list[JoinedEpisode]:
    """The complete episodes with the highest returns, in their original order.

    Args:
        episodes: the episodes, from `join_episodes`.
        share: the share of the complete episodes to take, rounded up; among equals the first.

    Raises:
        DataError: if no episode is complete.
    """
    whole = [e for e in episodes if e.whole]
    if not whole:
        raise DataError(
            f"none of the {len(episodes)} episodes in these rollouts is whole, so that their "
            "returns are not known: collect longer rollouts, or more of them"
        )
    count = math.ceil(share * len(whole))
    ranked = sorted(range(len(whole)), key=lambda i: -whole[i].trajectory.total_reward)
    return [whole[i] for i in sorted(ranked[:count])]


def common_source(rollouts: Sequence[Buffer]) -> RolloutSource:
    """The source that all the rollouts share.

    Raises:
        DataError: if there are no rollouts, or if they are of different environments; names both.
    """
    if not rollouts or not any(map(len, rollouts)):
        raise DataError("there is nothing to train on: the rollouts hold no trajectories")
    first = rollouts[0].source or RolloutSource()
    for number, rollout in enumerate(rollouts):
        source = rollout.source or RolloutSource()
        for name in ("env_id", "env_kwargs", "observation_space", "action_space"):
            here, there = getattr(first, name), getattr(source, name)
            if here != there:
                raise DataError(
                    f"rollouts of different environments cannot be trained on together: "
                    f"{name} of the first is {here!r:.200}, of number {number} {there!r:.200}"
                )
        for index, trajectory in enumerate(rollout):
            steps = [len(getattr(trajectory, name)) for name in ("actions", "rewards")]
            if len(set(steps)) > 1:
                raise DataError(
                    f"rollout {number}, trajectory {index}: {steps[0]} actions and {steps[1]} "
                    "rewards; each action needs a reward"
                )
            for reward in trajectory.rewards:
                check_reward(reward, f"rollout {number}, trajectory {index}")
    return first


def check_transitions(rollouts: Sequence[Buffer], policy: MLPPolicy) -> None:
    """Refuse rollouts that a policy's networks cannot take.

    Raises:
        DataError: if an observation or an action does not fit the policy's spaces, or an episode
            that is not over lacks its last observation; says in which rollout and trajectory.
    """
    for number, rollout in enumerate(rollouts):
        if len(rollout):
            transition_arrays(list(rollout), policy, f"rollout {number}, ")
        for index, trajectory in enumerate(rollout):
            ends_open = len(trajectory) and not trajectory.terminated
            if ends_open and trajectory.final_observation is None:
                raise DataError(
                    f"rollout {number}, trajectory {index} has no last observation: the episode "
                    "did not terminate there, so that its value counts"
                )


def spaces_of(source: RolloutSource, env: Any = None) -> tuple[Space, Space]:
    """Observation and action space of the environment that rollouts were collected in.

    Args:
        source: the source of the rollouts.
        env: the environment, used if the source does not name the spaces.

    Raises:
        DataError: if the source does not name the spaces and there is no environment.
    """
    said = source.observation_space, source.action_space
    if None not in said:
        return make_space(said[0]), make_space(said[1])
    if env is None:
        raise DataError(
            "the rollouts do not say what their spaces are: pass the environment they are of"
        )
    return single_spaces(env)


def refuse_stale(rollouts: Sequence[Buffer], policy: Any) -> None:
    """Refuse rollouts that another policy collected; for on-policy algorithms.

    Args:
        rollouts: the rollouts to train on.
        policy: the policy to train, which has ``fingerprint()``.

    Raises:
        ConfigError: if the policy of a rollout is another one or not known; names both hashes.
    """
    own = policy.fingerprint()
    for number, rollout in enumerate(rollouts):
        there = rollout.source.policy_hash if rollout.source else None
        if there != own:
            other = f"policy {there[:12]}" if there else "a policy that it does not name"
            raise ConfigError(
                f"rollout {number} was collected by {other}, and the policy to train is "
                f"{own[:12]}: PPO is on-policy, and its ratios and advantages hold only for what "
                "the policy itself collected just before. Train from these with --method awr, "
                "filtered_bc or bc (text: grpo or rft), or let PPO collect its own rollouts "
                "(without --from-rollouts)"
            )


def hash_of(arrays: Iterable[Any]) -> str:
    """SHA-256 of the shapes, types and contents of arrays, or of lists of numbers."""
    digest = hashlib.sha256()
    for array in map(np.ascontiguousarray, arrays):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def check_data(what: str, there: str, here: str) -> None:
    """Refuse to go on from a checkpoint of a training on other data.

    Args:
        what: what the data are, for the message.
        there: their `hash_of` in the checkpoint.
        here: that of the data of the present training.

    Raises:
        ConfigError: if the two differ.
    """
    if there != here:
        raise ConfigError(
            f"the {what} are others than those of the checkpoint (SHA-256 {here[:12]}, and there "
            f"{there[:12]}): resume with the same, in the same order"
        )


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return np.array_equal(a, b)


def _joined(parts: list[Trajectory]) -> Trajectory:
    """Join the parts of an episode into one trajectory of control."""
    if len(parts) == 1:
        return parts[0]
    columns: dict[str, Any] = {
        name: [item for part in parts for item in getattr(part, name)] for name in _BY_STEP
    }
    for name in _BY_STEP_OR_NONE:
        lists = [getattr(part, name) for part in parts]
        known = all(items is not None for items in lists)
        columns[name] = [item for items in lists for item in items] if known else None
    last = parts[-1]
    return replace(
        parts[0],
        **columns,
        final_observation=last.final_observation,
        terminated=last.terminated,
        truncated=last.truncated,
        last_value=last.last_value,
    )


def discounted(rewards: Sequence[float], gamma: float) -> np.ndarray:
    """The discounted returns (T,) from each step on."""
    out, total = np.zeros(len(rewards)), 0.0
    for t in range(len(rewards) - 1, -1, -1):
        total = rewards[t] + gamma * total
        out[t] = total
    return out
