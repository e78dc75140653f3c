"""Rollouts of control: a fixed number of transitions, shared by all environments."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from textenv.algos.episodes.policy_call import PolicyCall
from textenv.algos.episodes.stages import Lane, SingleStage, VectorStage
from textenv.algos.episodes.trajectory import Buffer
from textenv.errors import ConfigError


class StepCollector:
    """Collects exactly so many transitions, over episodes that rollouts cut and go on with.

    Args:
        stage: the environments, all of which share the transitions evenly.
        call: the policy.
        max_steps: transitions of a rollout.
        seed: of the first reset; None leaves the environments' own seeding alone.
        seconds: time spent in the ``"environment"`` and in the ``"policy"`` is added to it.

    Raises:
        ConfigError: where the number of environments does not divide ``max_steps``.
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

    def collect(self, version: int) -> Buffer:
        """The next rollout, of a policy of this version."""
        if not self._lanes:
            seed = self._seed
            self._lanes = [
                Lane(start, version, None if seed is None else seed + i, i)
                for i, start in enumerate(self._stage.reset(seed))
            ]
        for lane in self._lanes:
            lane.trajectory.policy_version = version
        buffer = Buffer()
        remaining = [self._share] * self._stage.num_envs
        while any(remaining):
            self._step(buffer, remaining, version)
        self._add_last_values(buffer)
        return buffer

    def _step(self, buffer: Buffer, remaining: list[int], version: int) -> None:
        """One step of every environment, of those that have not had their share recorded."""
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
                    buffer.add(lane.trajectory)
                    lanes[i] = lane.cut(version)
            elif step is not None:  # this lane has its share, others wait for a reset
                lane.observation, lane.info, lane.starts = step["observation"], step["info"], False
                lanes[i] = lane.cut(version)
            if start is not None:
                lanes[i] = Lane(start, version, env_index=i)

    def _add_last_values(self, buffer: Buffer) -> None:
        """The critic's value of what came last, where an episode would have gone on."""
        going = [t for t in buffer if not t.terminated]
        if self._call.values is None or not going:
            return
        for trajectory, value in zip(
            going, self._call.values([t.final_observation for t in going])
        ):
            trajectory.last_value = float(value)
