"""Collects rollouts of control: a fixed number of transitions, shared by all environments."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from textenv.algos.episodes.episode import Lane
from textenv.algos.episodes.policy_call import PolicyCall
from textenv.algos.episodes.rollout import Rollout
from textenv.algos.episodes.stages import SingleStage, StepOutcome, VectorStage
from textenv.algos.episodes.trajectory import Trajectory
from textenv.errors import ConfigError


class StepCollector:
    """Collects exactly ``max_steps`` transitions; a cut episode goes on in the next rollout.

    Every transition that is played belongs to a rollout. All lanes have equally many, unless the
    environments need a step of their own for a reset (Gymnasium's NEXT_STEP): then lanes of longer
    episodes have more, and those of a last step that are too many begin the next rollout.

    Args:
        stage: the environments, which share the transitions.
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
        self._max_steps, self._seed = max_steps, seed
        self._lanes: list[Lane] = []  # the episodes under way
        self._ended_early: list[Trajectory] = []  # episodes of the next rollout that are over

    def collect(self, version: int) -> Rollout:
        """Collect the next rollout; ``version`` is stamped on its trajectories."""
        if not self._lanes:
            seed = self._seed
            self._lanes = [
                Lane(start, version, None if seed is None else seed + i, i, episode=0)
                for i, start in enumerate(self._stage.reset(seed))
            ]
        kept, self._ended_early = self._ended_early, []
        played = sum(map(len, kept))
        for lane in self._lanes:
            if not lane.ended:
                played += len(lane.trajectory)
            if not len(lane.trajectory):
                lane.trajectory.policy_version = version
        missing = self._max_steps - played
        while missing:
            missing = self._step(kept, missing, version)
        self._add_last_values(kept)
        return Rollout(kept)

    def _step(self, kept: list[Trajectory], missing: int, version: int) -> int:
        """Step and record every environment; returns how many transitions are still missing."""
        outcomes, actions, extras = self._play()
        lanes = self._lanes
        last = missing <= sum(step is not None for step, _ in outcomes)
        for i, (step, start) in enumerate(outcomes):
            lane = lanes[i]
            if step is not None:
                if not missing and len(lane.trajectory):
                    kept.append(lane.trajectory)
                    lane = lanes[i] = lane.cut(version)
                lane.record(actions[i], {key: column[i] for key, column in extras.items()}, step)
                if lane.ended:
                    (kept if missing else self._ended_early).append(lane.trajectory)
                elif missing and last:
                    kept.append(lane.trajectory)
                    lanes[i] = lane.cut(version)
                missing -= bool(missing)
            if start is not None:
                episode = (lane.trajectory.episode or 0) + 1
                lanes[i] = Lane(start, version, env_index=i, episode=episode)
        return missing

    def _play(self) -> tuple[list[StepOutcome], list[Any], dict[str, list[Any]]]:
        """Ask the policy and step; the outcomes, the actions and the policy's extras by lane."""
        stage, lanes, clock = self._stage, self._lanes, time.perf_counter
        if isinstance(stage, VectorStage):
            starts_now: Any = np.array([lane.starts for lane in lanes])
            infos: Any = [lane.info for lane in lanes]
        else:
            starts_now, infos = lanes[0].starts, lanes[0].info
        began = clock()
        action, extras = self._call(stage.observation, episode_start=starts_now, infos=infos)
        acted = clock()
        actions = stage.actions(action)  # before the environment can change them
        columns = {key: stage.rows(value) for key, value in extras.items()}
        stepped = clock()
        outcomes = stage.step(action)
        self._seconds["policy"] += acted - began
        self._seconds["environment"] += clock() - stepped
        return outcomes, actions, columns

    def _add_last_values(self, kept: list[Trajectory]) -> None:
        """Add the critic's value of the last observation, if the episode would have gone on."""
        going = [t for t in kept if not t.terminated]
        if self._call.values is None or not going:
            return
        for trajectory, value in zip(
            going, self._call.values([t.final_observation for t in going])
        ):
            trajectory.last_value = float(value)
