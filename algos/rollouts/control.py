"""Collects rollouts of control: a fixed number of transitions, shared by all environments."""

from __future__ import annotations

import time
import warnings
from dataclasses import fields
from typing import Any

import numpy as np

from textenv.algos.episodes.episode import Lane
from textenv.algos.episodes.policy_call import PolicyCall
from textenv.algos.episodes.rollout import Rollout
from textenv.algos.episodes.stages import SingleStage, StepOutcome, VectorStage
from textenv.algos.episodes.trajectory import Trajectory
from textenv.algos.rollouts.planner import MAX_SEED
from textenv.algos.storage.checkpoints.state import State
from textenv.algos.storage.checkpoints.trees import from_state, to_state
from textenv.algos.storage.checks import COLUMNS
from textenv.algos.storage.codec import pack, unpack
from textenv.errors import ConfigError
from textenv.wrappers.copying import copied
from textenv.wrappers.plain_info import plain_info


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
        self._first_episodes = [0] * stage.num_envs  # their numbers, if all lanes begin
        self._collected = 0

    def collect(self, version: int) -> Rollout:
        """Collect the next rollout; ``version`` is stamped on its trajectories."""
        if not self._lanes:
            seed = self._seed
            self._lanes = [
                Lane(start, version, None if seed is None else seed + i, i, episode=number)
                for i, (start, number) in enumerate(
                    zip(self._stage.reset(seed), self._first_episodes)
                )
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
        self._collected += 1
        return Rollout(kept)

    def state(self) -> State:
        """Where the episodes under way are; needs a stage that is resumable."""
        lanes = [
            {
                "trajectory": _as_tree(lane.trajectory),
                "info": plain_info(lane.info),
                "starts": lane.starts,
            }
            for lane in self._lanes
        ]
        stage = self._stage.state() if lanes else {"lanes": []}
        for row in stage["lanes"]:
            row["actions"] = pack(row["actions"])
        return to_state(
            {
                "lanes": lanes,
                "ended_early": [_as_tree(trajectory) for trajectory in self._ended_early],
                "stage": stage,
                "collected": self._collected,
            }
        )

    def load_state(self, state: State) -> None:
        """Go on from what the `state` of a collector for environments of the same making gave.

        The episodes that were cut are played again up to there. If an environment does not come to
        the same place, a warning says so, and new episodes begin.

        Raises:
            ConfigError: if it is of other environments.
        """
        tree = from_state(state)
        lanes = [_as_lane(row) for row in tree["lanes"]]
        ended = [_as_trajectory(row) for row in tree["ended_early"]]
        why = self._stage.load_state(tree["stage"]) if lanes else ""
        self._lanes, self._ended_early = lanes, ended
        self._collected = tree["collected"]
        if why:
            warnings.warn(
                f"the episodes that were cut cannot go on, and new ones begin: {why}", stacklevel=4
            )
            self._lanes = []
            self._first_episodes = [(lane.trajectory.episode or 0) + 1 for lane in lanes]
            if self._seed is not None:
                rng = np.random.default_rng((self._seed, self._collected))
                self._seed = int(rng.integers(MAX_SEED))

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
            infos: Any = [copied(lane.info) for lane in lanes]  # the policy's own
        else:
            starts_now, infos = lanes[0].starts, copied(lanes[0].info)
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


def _as_tree(trajectory: Trajectory) -> dict[str, Any]:
    """A trajectory as nested plain values; infos as files of rollouts have them."""
    tree = {field.name: getattr(trajectory, field.name) for field in fields(trajectory)}
    known = {name: value for name, value in tree.items() if value is not None}
    for name in COLUMNS:
        if name in known:
            known[name] = pack(known[name])
    return known | {name: plain_info(known[name]) for name in ("infos", "reset_info")}


def _as_trajectory(tree: dict[str, Any]) -> Trajectory:
    return Trajectory(**tree | {name: unpack(tree[name]) for name in COLUMNS if name in tree})


def _as_lane(tree: dict[str, Any]) -> Lane:
    trajectory = _as_trajectory(tree["trajectory"])
    lane = Lane({"observation": trajectory.final_observation, "info": tree["info"]}, 0)
    lane.trajectory, lane.starts = trajectory, bool(tree["starts"])
    return lane
