"""What offline training reads: rollouts of one environment, put back together into episodes.

A rollout cuts the episodes that are under way when it ends; their rest is in the next one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gymnasium.spaces import Space

from textenv.algos.episodes.trajectory import Buffer, RolloutSource, Trajectory
from textenv.algos.storage.source import single_spaces
from textenv.algos.storage.space_json import make_space
from textenv.errors import ConfigError, DataError

_BY_STEP = ("observations", "actions", "rewards", "infos")
_BY_STEP_OR_NONE = ("values", "logprobs", "unclipped_actions")


@dataclass
class JoinedEpisode:
    """One episode, or as much of it as the rollouts hold."""

    trajectory: Trajectory
    whole: bool
    """Whether all of it is here, from its reset to its end."""


def join_episodes(rollouts: Sequence[Buffer]) -> list[JoinedEpisode]:
    """The episodes of some rollouts, in the order in which they begin there.

    The last part of an environment in one rollout and its first part in the next are one episode
    where the second goes on from the very observation that the first ended with.

    Args:
        rollouts: in the order in which they were collected.
    """
    parts: list[list[Trajectory]] = []
    begun: list[bool] = []  # whether each starts at a reset
    going: dict[int | None, int] = {}  # which episode is under way in an environment
    ended: set[int | None] = {None}  # environments whose next step follows a reset
    for rollout in rollouts:
        for trajectory in rollout:
            if not len(trajectory):
                continue
            lane = trajectory.env_index
            number = going.pop(lane, None)
            if number is None or not _goes_on(parts[number][-1], trajectory):
                number = len(parts)
                parts.append([])
                begun.append(trajectory.seed is not None or lane in ended)
            parts[number].append(trajectory)
            if trajectory.terminated or trajectory.truncated:
                ended.add(lane)
            else:
                going[lane] = number
                ended.discard(lane)
    return [
        JoinedEpisode(_joined(p), start and (p[-1].terminated or p[-1].truncated))
        for p, start in zip(parts, begun)
    ]


def mean_return(episodes: Sequence[JoinedEpisode]) -> float | None:
    """Mean return of the whole episodes; None where there are none."""
    returns = [e.trajectory.total_reward for e in episodes if e.whole]
    return float(np.mean(returns)) if returns else None


def best_episodes(episodes: Sequence[JoinedEpisode], share: float) -> list[JoinedEpisode]:
    """The whole episodes of the highest returns, in the order in which they were.

    Args:
        episodes: from `join_episodes`.
        share: how many of the whole ones, rounded up; of equal ones the first.

    Raises:
        DataError: where none is whole.
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
    """Where all the rollouts come from.

    Raises:
        DataError: for no rollouts, or rollouts of different environments; names both.
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
    return first


def spaces_of(source: RolloutSource, env: Any = None) -> tuple[Space, Space]:
    """Observation and action space of the environment that rollouts are of.

    Args:
        source: where they come from.
        env: the environment, for what the source does not say.

    Raises:
        DataError: where neither says it.
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
    """Refuse rollouts that another policy collected, for an algorithm that is on-policy.

    Args:
        rollouts: to be trained on.
        policy: that is to be trained; has ``fingerprint()``.

    Raises:
        ConfigError: where a rollout's policy is another or not known; names both hashes.
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


def _goes_on(before: Trajectory, after: Trajectory) -> bool:
    return after.seed is None and _same(before.final_observation, after.observations[0])


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return np.array_equal(a, b)


def _joined(parts: list[Trajectory]) -> Trajectory:
    """One trajectory of control out of its parts."""
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
