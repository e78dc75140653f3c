"""The rollout loop: one for text and for control, for episodes of one turn or many.

The runner sees observations, actions and transitions. How a policy comes to an action, token by
token or by one matrix product, is the policy's own affair; what it records comes in ``extras``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from textenv.algos.config import check_integer
from textenv.algos.episodes.environments import (
    Prescoring,
    as_dict_step,
    copies,
    innermost,
    is_text,
    max_turns,
    title,
)
from textenv.algos.episodes.policy_call import Policy, PolicyCall
from textenv.algos.episodes.stages import Lane, SingleStage, Turn, VectorStage, replay
from textenv.algos.episodes.trajectory import Buffer, Trajectory
from textenv.algos.rollouts.control import StepCollector
from textenv.algos.rollouts.gather import gather
from textenv.algos.strategies.protocols import Setup, Start, load_rng, save_rng
from textenv.algos.strategies.strategy import Strategy, create_strategy
from textenv.errors import ConfigError, DataError
from textenv.wrappers.step import standardize_reset, standardize_step

_MAX_SEED = 2**31 - 1
_MAX_NOISE = 2**63 - 1  # so many that no two episodes share one, nor one's turns another's

Answers = tuple[list[Any], list[dict[str, Any]]]
"""The actions of some episodes, and the extras of each."""

Ended = Callable[[int, Any, dict[str, Any]], None]
"""What may be told of an episode's index among those, its action and its extras, before all are
there: what scores it elsewhere then begins while the policy is at work on the others."""


class RolloutRunner:
    """Collects rollouts of one policy in one environment.

    Text is collected in whole groups: all trajectories of a group start from one reset seed,
    hence from the same prompt. Where the policy takes batches (``policy.batched``), a whole
    rollout is generated at once, in copies of the environment made from its spec. Control is
    collected for exactly ``max_steps`` transitions, shared evenly by the lanes of a vector
    environment; an episode that the end of a rollout cuts goes on in the next one.

    Args:
        env: a Gymnasium environment, a vector environment, or anything whose ``reset`` and
            ``step`` return the dicts of `textenv.wrappers.DictStep`.
        policy: any policy. One that declares ``episode_start`` or ``infos`` is given them; one
            that declares ``context`` is given the token ids of each episode so far, and one that
            declares ``seeds`` the seed of the noise of each answer (text only); one that declares
            ``continues`` is told whether its episodes may go on after this turn, and ``forget()``
            is called, where there is one, when all of them have ended (text only); one that takes
            batches and declares ``ended`` is given a function to call with the index, the action
            and the extras of an answer before the others are there, where reward functions that
            run elsewhere can begin to score it (text only); one that has ``values(observations)``
            gives the value of what came after an unfinished episode.
        strategy: from `create_strategy`; single trajectories where None. Its parts are for text.
        max_steps: transitions of one `collect`: for control exactly that many, for text at most.
            Those that a strategy discards, and draws again, or adds from earlier rollouts come
            on top.
        seed: seeds the resets, and the noise of a policy that declares ``seeds``; others have a
            seed of their own. None leaves the environments' own seeding alone (control only).

    Attributes:
        is_text: whether the environment's actions are text.
        num_groups: groups that a rollout of text is to have.
        policy_version: stamped on every trajectory; whoever updates the policy counts it up.
        seconds: time spent so far in the ``"environment"`` and in the ``"policy"``.

    Raises:
        ConfigTypeError: for an environment or policy of another kind.
        ConfigError: where ``max_steps`` is too few for one group, or does not divide by the
            number of environments; says both numbers. Or where a part of the strategy cannot be
            used here.
    """

    def __init__(
        self,
        env: Any,
        policy: Policy,
        strategy: Strategy | None = None,
        max_steps: int = 2048,
        seed: int | None = 0,
    ):
        check_integer("max_steps", max_steps, 1)
        self._call = PolicyCall(policy)
        self.env = as_dict_step(env)
        self.policy = policy
        self.strategy = strategy or create_strategy("ppo")
        self.max_steps = max_steps
        self.policy_version = 0
        self.seconds = {"environment": 0.0, "policy": 0.0}
        self.seed = seed
        self._rng = np.random.default_rng(seed)
        self._noise_rng = np.random.default_rng(None if seed is None else (seed, 1))
        vector = isinstance(getattr(self.env, "env", None), VectorEnv)
        self._stage = VectorStage(self.env) if vector else SingleStage(self.env)
        self._copies = [self.env]  # text: made as they are needed
        self._prescoring = Prescoring(self._copies)
        self._next_group = 0
        self._epoch: list[int] = []  # text: ids of a finite task that are still to come
        self.is_text = is_text(self.env)
        if self.is_text:
            self._plan_groups()
        elif self.strategy.parts:
            raise ConfigError(
                f"the strategy ({self.strategy.describe()}) compares whole episodes of text, and "
                f"the actions of {type(innermost(self.env)).__name__} are not text"
            )
        else:
            first = None if seed is None else int(self._rng.integers(_MAX_SEED))
            self._control = StepCollector(self._stage, self._call, max_steps, first, self.seconds)

    def collect(self) -> Buffer:
        """Collect one rollout.

        Raises:
            TypeError: where a step result has another shape.
            RolloutError: where the strategy stops because groups are missing.
        """
        if self.is_text:
            return self.gather(self.play_starts)
        return self._control.collect(self.policy_version)

    def gather(self, play: Callable[[list[Start]], Iterable[Trajectory]]) -> Buffer:
        """Collect one rollout of text by the strategy, whoever plays it.

        Args:
            play: plays whole groups, as `play_starts` does.
        """
        version = self.policy_version
        return gather(self.strategy, self.plan, lambda s: list(play(s)), self.num_groups, version)

    def plan(self, count: int | None = None) -> list[Start]:
        """Where the episodes of the next rollout of text start, and the seeds of their noise.

        They are then played by ``play_starts``, here or in runners elsewhere, in parts of whole
        groups: an episode follows from its start and the policy's weights.

        Args:
            count: of groups; None: of a whole rollout.
        """
        chosen = self.strategy.prompts.choose(
            self._propose, self.num_groups if count is None else count
        )
        if isinstance(self._stage, VectorStage) and any(start.options for start in chosen):
            raise ConfigError(
                "the strategy starts episodes with options, which a vector environment gives to "
                "all its environments alike: use a single environment"
            )
        starts = []
        for start in chosen:
            starts += [start._replace(group_id=self._next_group)] * self._size
            self._next_group += 1
        noise = self._noise_rng.integers(_MAX_NOISE, size=len(starts)).tolist()
        return [start._replace(noise=seed) for start, seed in zip(starts, noise)]

    def play_starts(self, starts: Sequence[Start]) -> Buffer:
        """Play these starts, which `plan` gave, of whole groups, as the strategy plays."""
        return Buffer(self.strategy.generation.play(self, starts))

    def chains(self, starts: Sequence[Start]) -> list[Trajectory]:
        """Play one episode from each of these starts; they know nothing of each other."""
        if isinstance(self._stage, VectorStage):
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
        answer: Callable[[list[Lane], Ended], Answers],
        after: Sequence[Sequence[Turn]] | None = None,
    ) -> list[Trajectory]:
        """Play one episode from each of these starts, all side by side, for a tree's branches.

        What the policy keeps for them is let go by `forget`.

        Args:
            starts: where they begin.
            answer: gives the actions of all episodes that go on, as `answer` does; it may tell
                of each once it will not be changed any more.
            after: turns of others that each begins with: they are played again, and what the
                environment says must be the same.

        Raises:
            ConfigError: where the environment cannot be copied, or is not deterministic.
        """
        if self._make_copies(len(starts)) < len(starts):
            raise ConfigError("a tree needs copies of the environment, side by side")
        return self._episodes(starts, answer, after)

    def forget(self) -> None:
        """Let the policy forget what it kept of episodes that have ended."""
        if hasattr(self.policy, "forget"):
            self.policy.forget()

    def state(self) -> dict[str, Any]:
        """What the next rollouts of text depend on beside the policy, in JSON's types."""
        return {
            "environment": title(self.env),
            "num_groups": self.num_groups,
            "policy_version": self.policy_version,
            "next_group": self._next_group,
            "epoch": list(self._epoch),
            "resets": save_rng(self._rng),
            "noise": save_rng(self._noise_rng),
            "strategy": self.strategy.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave: the next rollouts are those that would have come there.

        Raises:
            ConfigError: where it is of another strategy, of rollouts of another size, or of
                another environment or task.
            DataError: for something that is no state.
        """
        try:
            if state["environment"] != title(self.env):
                raise ConfigError(
                    f"the state is of rollouts in {state['environment']}; this environment is "
                    f"{title(self.env)}"
                )
            if state["num_groups"] != self.num_groups:
                raise ConfigError(
                    f"the state is of rollouts of {state['num_groups']} groups; this one has "
                    f"{self.num_groups}"
                )
            self.strategy.load_state(state["strategy"])
            load_rng(self._rng, state["resets"])
            load_rng(self._noise_rng, state["noise"])
            self._next_group, self._epoch = int(state["next_group"]), list(state["epoch"])
            self.policy_version = int(state["policy_version"])
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"not the state of a rollout's strategy: {error!r}") from error

    @property
    def num_envs(self) -> int:
        """Environments that share the transitions of control."""
        return self._stage.num_envs

    def play(self, example_ids: Sequence[int], deterministic: bool = False) -> Buffer:
        """Play one episode of each of these examples of a text task, for evaluation.

        Args:
            example_ids: which examples; nothing is drawn at random but the policy's tokens.
            deterministic: passed on to the policy.

        Raises:
            ConfigError: where the environment is a vector environment, or not text.
        """
        if not self.is_text or isinstance(self._stage, VectorStage):
            raise ConfigError("play needs a single environment of text")
        starts = [Start(i, 0, {"example_id": id_}) for i, id_ in enumerate(example_ids)]
        self._call.deterministic = deterministic
        try:
            return Buffer(self.chains(starts))
        finally:
            self._call.deterministic = False

    def close(self) -> None:
        """Close the environment and its copies."""
        for env in self._copies:
            if hasattr(env, "close"):
                env.close()

    def _plan_groups(self) -> None:
        self._turns = max_turns(self.env)
        self._size = self.strategy.num_generations
        self.num_groups = self.max_steps // (self._size * self._turns)
        if self.num_groups < 1:
            raise ConfigError(
                f"max_steps={self.max_steps} is fewer than one group: num_generations={self._size} "
                f"trajectories of up to {self._turns} step(s) each"
            )
        self.strategy.prepare(
            Setup(self.env, self.policy, self.num_groups, self._size, self._turns, self.seed)
        )

    def _propose(self, count: int) -> list[Start]:
        """Where the next groups start: a finite task in shuffled epochs, others by seed alone."""
        seeds = self._rng.integers(_MAX_SEED, size=count).tolist()
        ids = getattr(getattr(innermost(self.env), "task", None), "ids", None)
        if ids is None or isinstance(self._stage, VectorStage):  # its options go to all lanes alike
            return [Start(0, seed, None) for seed in seeds]
        while len(self._epoch) < count:
            self._epoch += [ids[i] for i in self._rng.permutation(len(ids))]
        drawn, self._epoch = self._epoch[:count], self._epoch[count:]
        return [
            Start(0, seed, {"example_id": example_id}) for seed, example_id in zip(seeds, drawn)
        ]

    def _episodes(
        self,
        starts: Sequence[Start],
        answer: Callable[[list[Lane], Ended], Answers],
        after: Sequence[Sequence[Turn]] | None = None,
    ) -> list[Trajectory]:
        """One whole episode from each start, side by side."""
        clock = time.perf_counter
        began = clock()
        lanes = []
        for begun, start in zip(self._reset(starts), starts):
            lanes.append(Lane(begun, self.policy_version, start.seed, noise=start.noise))
            lanes[-1].trajectory.group_id = start.group_id
        self._check_equal_starts(lanes)
        if after is not None:
            replay(lanes, after, self._step)
        self.seconds["environment"] += clock() - began
        going = list(range(len(lanes)))
        while going:
            if max(len(lanes[i].trajectory) for i in going) == self._turns:
                raise ConfigError(
                    f"an episode goes on after {self._turns} step(s): register the environment "
                    "with max_episode_steps, from which the size of a rollout is planned"
                )
            self._turn({i: lanes[i] for i in going}, answer)
            going = [i for i in going if not lanes[i].ended]
        return [lane.trajectory for lane in lanes]

    def _turn(self, lanes: dict[int, Lane], answer: Callable[[list[Lane], Ended], Answers]) -> None:
        """One turn of the episodes that go on, by their environments' numbers."""
        clock, numbers = time.perf_counter, list(lanes)

        def ended(index: int, action: Any, _: dict[str, Any]) -> None:
            self._prescoring.begin(numbers[index], action)

        began = clock()
        actions, extras = answer(list(lanes.values()), ended)
        acted = clock()
        steps = self._step(dict(zip(lanes, actions)))
        self.seconds["policy"] += acted - began
        self.seconds["environment"] += clock() - acted
        for i, action, row in zip(lanes, actions, extras):
            lanes[i].record(action, row, steps[i])

    def _check_equal_starts(self, lanes: list[Lane]) -> None:
        first: dict[int | None, Any] = {}
        for lane in lanes:
            start = first.setdefault(lane.trajectory.group_id, lane.observation)
            if start != lane.observation:
                raise ConfigError(
                    "two resets with one seed gave the prompts "
                    f"{start!r:.60} and {lane.observation!r:.60}: the environment must draw from "
                    "its np_random alone, or its completions cannot be compared in groups"
                )

    def answer(self, lanes: list[Lane], ended: Ended | None = None, **tree: Any) -> Answers:
        """Actions and extras of some episodes: at once where the policy takes batches.

        Args:
            lanes: the episodes.
            ended: see `Ended`.
            tree: ``branches``, ``begun`` and ``limits`` of `LanguageModelPolicy`.
        """
        if not self._call.batched:
            pairs = [
                self._call(
                    lane.observation,
                    episode_start=lane.starts,
                    infos=lane.info,
                    context=lane.context,
                    seeds=lane.noise,
                )
                for lane in lanes
            ]
            return [action for action, _ in pairs], [extras for _, extras in pairs]
        actions, extras = self._call(
            [lane.observation for lane in lanes],
            episode_start=[lane.starts for lane in lanes],
            infos=[lane.info for lane in lanes],
            context=[lane.context for lane in lanes],
            seeds=None if lanes[0].noise is None else [lane.noise for lane in lanes],
            continues=min(len(lane.trajectory) for lane in lanes) + 1 < self._turns,
            ended=ended if self._prescoring.early else None,
            **tree,
        )
        if len(actions) != len(lanes):
            raise ConfigError(f"the policy gave {len(actions)} actions for {len(lanes)} prompts")
        rows = [{key: values[i] for key, values in extras.items()} for i in range(len(lanes))]
        return list(actions), rows

    def _reset(self, starts: Sequence[Start]) -> list[dict[str, Any]]:
        if isinstance(self._stage, VectorStage):
            seeds = [start.seed for start in starts]
            spare = self._stage.num_envs - len(seeds)
            return self._stage.reset(seeds + seeds[:1] * spare)[: len(seeds)]
        return [
            standardize_reset(env.reset(seed=start.seed, options=start.options))
            for env, start in zip(self._copies, starts)
        ]

    def _step(self, actions: dict[int, Any]) -> dict[int, Any]:
        if isinstance(self._stage, VectorStage):
            every = tuple(actions.get(i, "") for i in range(self._stage.num_envs))
            outcomes = self._stage.step(every)
            return {i: outcomes[i].step for i in actions}
        self._prescoring.begin_all(actions)
        return {i: standardize_step(self._copies[i].step(a)) for i, a in actions.items()}

    def _make_copies(self, count: int) -> int:
        """Copy the environment up to ``count`` times in all; returns how many there are to use."""
        missing = count - len(self._copies)
        if missing > 0:
            self._copies += copies(self.env, missing)
        self._prescoring = Prescoring(self._copies)
        return min(count, len(self._copies))
