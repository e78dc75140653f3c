"""Collects rollouts of control: a fixed number of transitions, shared by all environments."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from textenv.algos.episodes.episode import Lane
from textenv.algos.episodes.policy_call import PolicyCall
from textenv.algos.episodes.rollout import Rollout
from textenv.algos.episodes.stages import SingleStage, VectorStage
from textenv.algos.episodes.trajectory import Trajectory
from textenv.errors import ConfigError


class StepCollector:
    """Collects exactly ``max_steps`` transitions; a cut episode goes on in the next rollout.

    Args:
        stage: the environments, which share the transitions evenly.
        call: calls the policy.
        max_steps: how many transitions a rollout has.
        seed: the seed of the first reset; None leaves the environments' own seeding alone.
        seconds: time spent in the ``"environment"`` and in the ``"policy"`` is added to it.

    Raises:
        ConfigError: if the number of environments does not divide ``max_steps``.
    """

    def __init__(
        self,
        stage: SingleStage | VectorStage,
        call: PolicyCall,
        max_steps: int,
        seed: int | None,
        seconds: dict[str, float],
    ):
        if max_steps % stage.num_envs:
            raise ConfigError(
                f"max_steps={max_steps} must be divisible by num_envs={stage.num_envs}: "
                "a rollout is shared evenly by all environments"
            )
        self._stage, self._call, self._seconds = stage, call, seconds
        self._share, self._seed = max_steps // stage.num_envs, seed
        self._lanes: list[Lane] = []  # the episodes under way

    def collect(self, version: int) -> Rollout:
        """Collect the next rollout; ``version`` is stamped on its trajectories."""
        if not self._lanes:
            seed = self._seed
            self._lanes = [
                Lane(start, version, None if seed is None else seed + i, i)
                for i, start in enumerate(self._stage.reset(seed))
            ]
        for lane in self._lanes:
            lane.trajectory.policy_version = version
        kept: list[Trajectory] = []
        remaining = [self._share] * self._stage.num_envs
        while any(remaining):
            self._step(kept, remaining, version)
        self._add_last_values(kept)
        return Rollout(kept)

    def _step(self, kept: list[Trajectory], remaining: list[int], version: int) -> None:
        """Step every environment, and record those that have not had their share yet."""
        stage, lanes, clock = self._stage, self._lanes, time.perf_counter
        if isinstance(stage, VectorStage):
            starts_now: Any = np.array([lane.starts for lane in lanes])
            infos: Any = [lane.info for lane in lanes]
        else:
            starts_now, infos = lanes[0].starts, lanes[0].info
        began = clock()
        action, extras = self._call(stage.observation, episode_start=starts_now, infos=infos)
        acted = clock()
        outcomes = stage.step(action)
        self._seconds["policy"] += acted - began
        self._seconds["environment"] += clock() - acted
        actions = stage.rows(action)
        columns = {key: stage.rows(value) for key, value in extras.items()}
        for i, (step, start) in enumerate(outcomes):
            lane = lanes[i]
            if step is not None and remaining[i]:
                lane.record(actions[i], {key: c[i] for key, c in columns.items()}, step)
                remaining[i] -= 1
                if lane.ended or not remaining[i]:
                    kept.append(lane.trajectory)
                    lanes[i] = lane.cut(version)
            elif step is not None:  # this lane has its share and is stepped for the others
                lane.observation, lane.info, lane.starts = step["observation"], step["info"], False
                lanes[i] = lane.cut(version)
            if start is not None:
                lanes[i] = Lane(start, version, env_index=i)

    def _add_last_values(self, kept: list[Trajectory]) -> None:
        """Add the critic's value of the last observation, if the episode would have gone on."""
        going = [t for t in kept if not t.terminated]
        if self._call.values is None or not going:
            return
        for trajectory, value in zip(
            going, self._call.values([t.final_observation for t in going])
        ):
            trajectory.last_value = float(value)
