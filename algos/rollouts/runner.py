"""The rollout loop, for text and for control, for episodes of one turn or many.

The runner sees observations, actions and transitions. It does not know how a policy comes to an
action, token by token or by one matrix product; what the policy records comes in ``extras``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from textenv.algos.config import check_integer
from textenv.algos.episodes.environments import as_dict_step, innermost, is_text, max_turns
from textenv.algos.episodes.policy_call import Policy, PolicyCall
from textenv.algos.episodes.rollout import Counts, Rollout
from textenv.algos.episodes.scoring import Scoring, has_failed
from textenv.algos.episodes.stages import SingleStage, VectorStage
from textenv.algos.episodes.trajectory import Trajectory
from textenv.algos.rollouts.control import StepCollector
from textenv.algos.rollouts.planner import MAX_SEED, Planner
from textenv.algos.rollouts.player import TextPlayer
from textenv.algos.strategies.counts import count_kept, count_round
from textenv.algos.strategies.groups import by_group
from textenv.algos.strategies.protocols import Group, Setup, Start
from textenv.algos.strategies.strategy import Strategy, create_strategy
from textenv.errors import ConfigError, DataError

CONTROL_STEPS = 2048
"""Transitions of a rollout of control, unless its size is given."""

TEXT_STEPS = 32
"""Transitions of a rollout of text, unless its size is given: so many completions of 64 tokens take
a model of 135 million parameters about six seconds on two cores; 2048 take six minutes."""


class RolloutRunner:
    """Collects rollouts of one policy in one environment.

    Text is collected in whole groups. All trajectories of a group start from one reset seed, and so
    from the same prompt. If the policy takes batches (``policy.batched``), a whole rollout is
    generated at once, in copies of the environment made from its spec. Control is collected for
    exactly ``max_steps`` transitions, which the lanes of a vector environment share: evenly, unless
    a reset takes a step of its own (Gymnasium's NEXT_STEP); then lanes of long episodes have more.
    If the end of a rollout cuts an episode, the next rollout goes on with it.

    The policy is given what its parameters declare: ``episode_start`` and ``infos``; for text also
    ``context`` (the token ids of each episode so far), ``seeds`` (the seed of the noise of each
    answer), ``continues`` (whether its episodes may go on after this turn) and, if it takes
    batches, ``ended`` (a function to call with the index, the action and the extras of an answer
    before the others are there, so that reward functions that run elsewhere can begin). Its
    ``forget()`` is called when all episodes of text have ended. Its ``values(observations)`` gives
    the value of what comes after an unfinished episode.

    Args:
        env: a Gymnasium environment, a vector environment, or anything whose ``reset`` and
            ``step`` return the dicts of `textenv.wrappers.DictStep`.
        policy: any policy.
        strategy: from `create_strategy`; single trajectories if None. Its parts are for text.
        max_steps: transitions of one `collect`: for control exactly that many, for text at most.
            None: 2048 for control; 32 for text, or one group if that is more. Transitions that a
            strategy discards and plays again, or adds from earlier rollouts, come on top.
        seed: seeds the resets, and the noise of a policy that declares ``seeds``; others have a
            seed of their own. None leaves the environments' own seeding alone (control only).
        on_reward_error: text: what to do if a reward function raises, gives NaN, is cut off or ends
            its process. ``"fail"`` raises the RewardError, ``"skip"`` leaves the group out of the
            rollout (a group of one stays, unscored), a number is the reward of that episode. The
            info of the failed step has the message as ``reward_error``.
        resumable: control: record the episodes under way, so that `episodes` has a state.

    Attributes:
        is_text: whether the environment's actions are text.
        num_groups: how many groups a rollout of text is to have.
        seconds: seconds spent so far in the ``"environment"`` and in the ``"policy"``.

    Raises:
        ConfigTypeError: for an environment or policy of another kind.
        ConfigError: if ``max_steps`` is too few for one group, or does not divide by the number of
            environments (says both numbers), or if a part of the strategy cannot be used here.
    """

    def __init__(
        self,
        env: Any,
        policy: Policy,
        strategy: Strategy | None = None,
        max_steps: int | None = None,
        seed: int | None = 0,
        on_reward_error: str | float = "fail",
        resumable: bool = False,
    ):
        call = PolicyCall(policy)
        self.env = as_dict_step(env)
        self.policy = policy
        self.strategy = strategy or create_strategy("ppo")
        self.is_text = is_text(self.env)
        if max_steps is None:
            max_steps = self._default_steps()
        check_integer("max_steps", max_steps, 1)
        self.max_steps = max_steps
        self.seed = seed
        self.seconds = {"environment": 0.0, "policy": 0.0}
        self._is_vector = isinstance(getattr(self.env, "env", None), VectorEnv)
        resumable = resumable and not self.is_text
        kind: Any = VectorStage if self._is_vector else SingleStage
        stage: VectorStage | SingleStage = kind(self.env, resumable)
        self.num_envs: int = stage.num_envs
        """How many environments share the transitions of control."""
        if self.is_text:
            turns = max_turns(self.env)
            self._plan_groups(turns)
            lanes = stage if isinstance(stage, VectorStage) else None
            self._player = TextPlayer(self.env, lanes, call, turns, self.seconds, on_reward_error)
            self._planner = Planner(self.env, self.strategy, seed, same_options=self._is_vector)
        elif on_reward_error != "fail":
            raise ConfigError(
                f"on_reward_error={on_reward_error!r} is for text: control goes on from step to "
                "step, and has no groups to leave out"
            )
        elif self.strategy.parts:
            raise ConfigError(
                f"the strategy ({self.strategy.describe()}) compares whole episodes of text, and "
                f"the actions of {type(innermost(self.env)).__name__} are not text"
            )
        else:
            first = None if seed is None else int(np.random.default_rng(seed).integers(MAX_SEED))
            self.episodes = StepCollector(stage, call, max_steps, first, self.seconds)
            """Control: collects the rollouts."""
            self._version = 0
        self._call = call

    @property
    def policy_version(self) -> int:
        """Stamped on every trajectory; whoever updates the policy counts it up."""
        return self._player.policy_version if self.is_text else self._version

    @policy_version.setter
    def policy_version(self, version: int) -> None:
        if self.is_text:
            self._player.policy_version = version
        else:
            self._version = version

    @property
    def scoring(self) -> Scoring:
        """What is done with reward functions of text that fail."""
        return self._player.scoring

    def collect(self, play: Callable[[list[Start]], Iterable[Trajectory]] | None = None) -> Rollout:
        """Collect one rollout.

        Args:
            play: for text, plays whole groups from given starts, in place of this runner's own
                environment and policy.

        Raises:
            TypeError: if a step result has another shape.
            RolloutError: if the strategy stops because groups are missing.
        """
        before = dict(self.seconds)
        if self.is_text:
            rollout = self._gather(play or partial(self.strategy.generation.play, self._player))
        else:
            rollout = self.episodes.collect(self._version)
        rollout.seconds = {name: self.seconds[name] - before[name] for name in before}
        return rollout

    def plan(self, count: int | None = None) -> list[Start]:
        """Where the episodes of the next rollout of text start, see `Planner.plan`.

        Args:
            count: how many groups; None: as many as a rollout has.
        """
        return self._planner.plan(self.num_groups if count is None else count)

    def play_starts(self, starts: Sequence[Start]) -> list[Trajectory]:
        """Play whole groups as the strategy does, from starts that `plan` gave."""
        return self.strategy.generation.play(self._player, starts)

    def play(self, example_ids: Sequence[int], deterministic: bool = False) -> Rollout:
        """Play one episode of each of these examples of a text task, for evaluation.

        Args:
            example_ids: the ids of the examples; only the policy's tokens are drawn at random.
            deterministic: passed on to the policy.

        Raises:
            ConfigError: for a vector environment, or one that is not of text.
        """
        starts = [Start(i, 0, {"example_id": id_}) for i, id_ in enumerate(example_ids)]
        return Rollout(self.play_alone(starts, deterministic))

    def play_alone(self, starts: Sequence[Start], deterministic: bool = False) -> list[Trajectory]:
        """Play one episode from each of these starts, without the strategy, for evaluation.

        Raises:
            ConfigError: for a vector environment, or one that is not of text.
        """
        if not self.is_text or self._is_vector:
            raise ConfigError("play needs a single environment of text")
        self._call.deterministic = deterministic
        try:
            return self._player.chains(starts)
        finally:
            self._call.deterministic = False

    def state(self) -> dict[str, Any]:
        """The state that the next rollouts of text depend on beside the policy, in JSON's types."""
        return {
            "num_groups": self.num_groups,
            "policy_version": self.policy_version,
            **self._planner.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave: the next rollouts are those that would have come there.

        Raises:
            ConfigError: if it is the state of another strategy, environment or task, or of rollouts
                of another size.
            DataError: if it is not a state.
        """
        try:
            if state["num_groups"] != self.num_groups:
                raise ConfigError(
                    f"the state is of rollouts of {state['num_groups']} groups; this one has "
                    f"{self.num_groups}"
                )
            self._planner.load_state(state)
            self.policy_version = int(state["policy_version"])
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"not the state of a rollout's strategy: {error!r}") from error

    def close(self) -> None:
        """Close the environment and its copies."""
        if self.is_text:
            self._player.close()
        elif hasattr(self.env, "close"):
            self.env.close()

    def _default_steps(self) -> int:
        """As many steps of text as take seconds, but at least one group's; else 2048."""
        if not self.is_text:
            return CONTROL_STEPS
        return max(TEXT_STEPS, self.strategy.num_generations * max_turns(self.env))

    def _plan_groups(self, turns: int) -> None:
        """Find out how many groups a rollout has, and prepare the strategy."""
        size = self.strategy.num_generations
        self.num_groups = self.max_steps // (size * turns)
        if self.num_groups < 1:
            raise ConfigError(
                f"max_steps={self.max_steps} is fewer than one group: num_generations={size} "
                f"trajectories of up to {turns} step(s) each"
            )
        self.strategy.prepare(Setup(self.env, self.policy, self.num_groups, size, turns, self.seed))

    def _gather(self, play: Callable[[list[Start]], Iterable[Trajectory]]) -> Rollout:
        """Collect a rollout of text: choose starts, play, and select, until it has all groups."""
        kept: list[Group] = []
        played: list[Trajectory] = []
        counts = Counts()
        skipped = self.strategy.prompts.skipped
        while len(kept) < self.num_groups and counts.rounds < self.strategy.rounds:
            asked = self.strategy.ask(self.num_groups - len(kept), counts.groups)
            if not asked:
                break
            groups = by_group(play(self._planner.plan(asked)))
            played += [trajectory for group in groups for trajectory in group]
            count_round(counts, groups)
            # Unscored trajectories have no part in a loss; one without a group needs nothing else.
            if self.strategy.num_generations > 1 and self.scoring.on_error == "skip":
                groups = [group for group in groups if not any(map(has_failed, group))]
            self.strategy.prompts.observe(groups)
            for selection in self.strategy.selection:
                groups = selection.select(groups)
            kept = [*kept, *groups][: self.num_groups]
        for selection in self.strategy.selection:
            selection.end(len(kept), self.num_groups, counts.rounds)
        trained = kept
        for reuse in self.strategy.reuse:
            trained = reuse.extend(trained, self.policy_version)
        counts.prompts_skipped = self.strategy.prompts.skipped - skipped
        count_kept(counts, self.num_groups, kept, trained)
        return Rollout((t for group in trained for t in group), played=played, counts=counts)
