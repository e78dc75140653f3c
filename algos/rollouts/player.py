"""Plays episodes of text, many at once: the policy answers all of them, then all of them step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from textenv.algos.episodes.environments import copies
from textenv.algos.episodes.episode import Lane, PlayedTurn, check_reward, replay
from textenv.algos.episodes.policy_call import PolicyCall
from textenv.algos.episodes.prescoring import Prescoring
from textenv.algos.episodes.scoring import Scoring
from textenv.algos.episodes.stages import VectorStage
from textenv.algos.episodes.trajectory import Trajectory
from textenv.algos.strategies.protocols import Answer, Answers, OnAnswer, Start
from textenv.errors import ConfigError, RewardError
from textenv.wrappers.copying import copied
from textenv.wrappers.step import Step


class TextPlayer:
    """Plays whole episodes of text with one policy; it is what strategies call an `EpisodePlayer`.

    If the policy takes batches, the episodes are played side by side, in copies of the environment
    that are made from its spec when they are needed. Otherwise they are played one after another.

    Args:
        env: the environment, which steps in dicts.
        stage: the lanes of a vector environment; None for a single one.
        call: calls the policy.
        turns: the largest number of steps that an episode can have.
        seconds: time spent in the ``"environment"`` and in the ``"policy"`` is added to it.
        on_reward_error: what to do if a reward function fails, see `Scoring`.

    Attributes:
        policy: the policy that plays.
        policy_version: stamped on every trajectory.
        scoring: says what to do with reward functions that fail.

    Raises:
        ConfigError: for the lanes of a vector environment and another ``on_reward_error`` than
            ``"fail"``: they step together, so that the error of one ends the step of all.
    """

    def __init__(
        self,
        env: Any,
        stage: VectorStage | None,
        call: PolicyCall,
        turns: int,
        seconds: dict[str, float],
        on_reward_error: str | float = "fail",
    ):
        self.scoring = Scoring(on_reward_error)
        if stage is not None and on_reward_error != "fail":
            raise ConfigError(
                f"on_reward_error={on_reward_error!r} needs a single environment: in a vector "
                "environment the error of one reward ends the step of all"
            )
        self.policy = call.policy
        self.policy_version = 0
        self._stage, self._call = stage, call
        self._turns, self._seconds = turns, seconds
        self._copies = [env]
        self._prescoring = Prescoring(self._copies)

    def chains(self, starts: Sequence[Start]) -> list[Trajectory]:
        """Play one episode from each of these starts, independently of each other."""
        if self._stage is not None:
            width = self._stage.num_envs
        else:
            width = self._make_copies(len(starts) if self._call.batched else 1)
        firsts = range(0, len(starts), width)
        try:
            return [t for i in firsts for t in self._episodes(starts[i : i + width], self.answer)]
        finally:
            self.forget()

    def together(
        self,
        starts: Sequence[Start],
        answer: Answer,
        after: Sequence[Sequence[PlayedTurn]] | None = None,
    ) -> list[Trajectory]:
        """Play one episode from each of these starts, all side by side, for a tree's branches.

        The policy keeps what it computed for them until `forget` is called.

        Args:
            starts: where they begin.
            answer: gives the actions of all episodes that go on, as the method `answer` does. It
                may report each action as soon as that will not change any more.
            after: the turns of another episode that each of them begins with. These are played
                again, and the environment must answer the same.

        Raises:
            ConfigError: if the environment cannot be copied, or is not deterministic.
        """
        if self._make_copies(len(starts)) < len(starts):
            raise ConfigError("a tree needs copies of the environment, side by side")
        return self._episodes(starts, answer, after)

    def answer(self, lanes: list[Lane], on_answer: OnAnswer | None = None, **tree: Any) -> Answers:
        """The policy's actions for some episodes, and the extras of each.

        Args:
            lanes: the episodes.
            on_answer: called with each answer before the others are there, if the policy can do
                that and rewards can begin early.
            tree: ``branches``, ``begun`` and ``limits`` of `LanguageModelPolicy`.
        """
        if not self._call.batched:
            pairs = [
                self._call(
                    lane.observation,
                    episode_start=lane.starts,
                    infos=copied(lane.info),
                    context=lane.context,
                    seeds=lane.noise,
                )
                for lane in lanes
            ]
            return [action for action, _ in pairs], [extras for _, extras in pairs]
        actions, extras = self._call(
            [lane.observation for lane in lanes],
            episode_start=[lane.starts for lane in lanes],
            infos=[copied(lane.info) for lane in lanes],
            context=[lane.context for lane in lanes],
            seeds=None if lanes[0].noise is None else [lane.noise for lane in lanes],
            continues=min(len(lane.trajectory) for lane in lanes) + 1 < self._turns,
            ended=on_answer if self._prescoring.early else None,
            **tree,
        )
        if len(actions) != len(lanes):
            raise ConfigError(f"the policy gave {len(actions)} actions for {len(lanes)} prompts")
        rows = [{key: values[i] for key, values in extras.items()} for i in range(len(lanes))]
        return list(actions), rows

    def forget(self) -> None:
        """Let the policy discard what it kept for episodes that have ended."""
        if hasattr(self.policy, "forget"):
            self.policy.forget()

    def close(self) -> None:
        """Close the environment and its copies."""
        for env in self._copies:
            if hasattr(env, "close"):
                env.close()

    def _episodes(
        self,
        starts: Sequence[Start],
        answer: Answer,
        after: Sequence[Sequence[PlayedTurn]] | None = None,
    ) -> list[Trajectory]:
        """One whole episode from each start, side by side."""
        clock = time.perf_counter
        began = clock()
        lanes = self._begin(starts)
        step = partial(self._step, lanes)
        if after is not None:
            replay(lanes, after, step)
        self._seconds["environment"] += clock() - began
        going = list(range(len(lanes)))  # indices of the episodes that go on

        def on_answer(index: int, action: Any, _: dict[str, Any]) -> None:
            self._prescoring.begin(going[index], action)

        while going:
            if max(len(lanes[i].trajectory) for i in going) == self._turns:
                raise ConfigError(
                    f"an episode goes on after {self._turns} step(s): register the environment "
                    "with max_episode_steps, from which the size of a rollout is planned"
                )
            began = clock()
            actions, extras = answer([lanes[i] for i in going], on_answer)
            acted = clock()
            steps = step(dict(zip(going, actions)))
            self._seconds["policy"] += acted - began
            self._seconds["environment"] += clock() - acted
            for i, action, row in zip(going, actions, extras):
                lanes[i].record(action, row, steps[i])
            going = [i for i in going if not lanes[i].ended]
        return [lane.trajectory for lane in lanes]

    def _begin(self, starts: Sequence[Start]) -> list[Lane]:
        """Reset an environment for each start.

        Raises:
            ConfigError: if two resets of one group gave different prompts.
        """
        if self._stage is not None:
            seeds = [start.seed for start in starts]
            spare = self._stage.num_envs - len(seeds)
            begun = self._stage.reset(seeds + seeds[:1] * spare)
        else:
            begun = [
                copied(env.reset(seed=start.seed, options=start.options))
                for env, start in zip(self._copies, starts)
            ]
        lanes = [
            Lane(reset, self.policy_version, s.seed, noise=s.noise, group_id=s.group_id)
            for reset, s in zip(begun, starts)
        ]
        first: dict[int | None, Any] = {}
        for lane in lanes:
            prompt = first.setdefault(lane.trajectory.group_id, lane.observation)
            if prompt != lane.observation:
                raise ConfigError(
                    "two resets with one seed gave the prompts "
                    f"{prompt!r:.60} and {lane.observation!r:.60}: the environment must draw from "
                    "its np_random alone, or its completions cannot be compared in groups"
                )
        return lanes

    def _step(self, lanes: list[Lane], actions: dict[int, Any]) -> dict[int, Any]:
        """The steps of some environments, by their index."""
        if self._stage is not None:
            every = tuple(actions.get(i, "") for i in range(self._stage.num_envs))
            outcomes = self._stage.step(every)
            return {i: outcomes[i].step for i in actions}
        self._prescoring.begin_all(actions)
        steps: dict[int, Step] = {}
        for i, action in actions.items():
            try:
                self.scoring.begin(lanes[i], action)
                steps[i] = copied(self._copies[i].step(action))
                where = f"step {len(lanes[i].trajectory) + 1} of the environment"
                check_reward(steps[i]["reward"], where)
            except RewardError as error:
                steps[i] = self.scoring.failed(lanes[i], action, error)
        self.scoring.done()
        return steps

    def _make_copies(self, count: int) -> int:
        """Make copies until there are ``count`` environments; returns how many can be used."""
        missing = count - len(self._copies)
        if missing > 0:
            self._copies += copies(self._copies[0], missing)
        self._prescoring = Prescoring(self._copies)
        return min(count, len(self._copies))
