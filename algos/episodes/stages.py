"""Steps environments side by side, and resets them when their episodes end.

A *stage* holds the lanes of a rollout: one environment, or all those of a vector environment. It
steps all of them. For each lane it gives the step and, if an episode has begun since, the start of
that episode. So a loop over a stage need not know how its environments are reset. What it gives for
a lane is a copy, which the environments do not change any more.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import iterate

from textenv.algos.episodes.environments import refuse_shared
from textenv.algos.episodes.replaying import EpisodeLog, LoggedEnv, recall, remember
from textenv.errors import ConfigError
from textenv.wrappers.copying import OwnLastStep, copied
from textenv.wrappers.step import DictStep, Step


class StepOutcome(NamedTuple):
    """The result of one step of a stage for one lane."""

    step: Step | None
    """The transition; None if this step only reset the lane."""
    start: dict[str, Any] | None
    """``{"observation", "info"}`` of the episode that has begun since; None if there is none."""


class SingleStage:
    """One environment that steps in dicts; it is reset as soon as its episode ends.

    Args:
        env: the environment.
        resumable: whether to record the episode under way, so that `state` can be asked for.
    """

    num_envs = 1

    def __init__(self, env: Any, resumable: bool = False):
        self._log = EpisodeLog(env) if resumable else None
        self.env = self._log or env
        self.observation: Any = None
        """What the policy is given."""

    def reset(self, seed: int | None) -> list[dict[str, Any]]:
        """Start the first episode, and give its start."""
        start = self.env.reset(seed=seed)
        self.observation = start["observation"]
        return [copied(start)]

    def step(self, action: Any) -> list[StepOutcome]:
        """Step, and reset if the episode has ended."""
        raw = self.env.step(action)
        self.observation = raw["observation"]
        step, start = copied(raw), None
        if step["terminated"] or step["truncated"]:
            start = self.env.reset()
            self.observation = start["observation"]
            start = copied(start)
        return [StepOutcome(step, start)]

    def state(self) -> dict[str, Any]:
        """Where the environment is, in nested plain values."""
        assert self._log is not None, "a stage that is not resumable has no state"
        return {"observation": copied(self.observation), "lanes": [self._log.state()]}

    def load_state(self, state: dict[str, Any]) -> str:
        """Go on where another stage was, or if that fails begin anew with the next reset.

        Returns:
            Why the environment could not be brought there; empty if it was.

        Raises:
            ConfigError: if the other stage is of other environments.
        """
        assert self._log is not None, "a stage that is not resumable has no state"
        why = _replay([self._log], state["lanes"])
        self.observation = state["observation"]
        return why

    @staticmethod
    def actions(batch: Any) -> list[Any]:
        """The policy's action, by lane."""
        return [copied(batch)]

    @staticmethod
    def rows(values: Any) -> list[Any]:
        """What the policy recorded under one name, by lane."""
        return [copied(values)]


class VectorStage:
    """A Gymnasium vector environment, in any of its three autoreset modes.

    Args:
        env: the vector environment.
        resumable: whether to record the episodes under way, so that `state` can be asked for.
            Only environments that this process steps itself (SyncVectorEnv) can be recorded.
    """

    def __init__(self, env: DictStep, resumable: bool = False):
        vector: Any = env.env
        self.env = env
        self.num_envs: int = vector.num_envs
        self.mode = vector.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self.observation: Any = None
        """What the policy is given, as a batch."""
        self._resets_next = np.zeros(self.num_envs, bool)
        inner = vector.unwrapped
        if isinstance(inner, SyncVectorEnv):
            refuse_shared(inner.envs)
            if self.mode == AutoresetMode.SAME_STEP:
                inner.envs = OwnLastStep.around(inner.envs)
            if resumable:
                inner.envs = LoggedEnv.around(inner.envs)
        self._logged: list[LoggedEnv] = [
            one for one in getattr(inner, "envs", ()) if isinstance(one, LoggedEnv)
        ]

    def reset(self, seed: int | list[int] | None) -> list[dict[str, Any]]:
        """Start the first episodes; a list of seeds gives each lane one of its own."""
        start = self.env.reset(seed=seed)
        self._resets_next[:] = False
        return self._starts(start)

    def step(self, actions: Any) -> list[StepOutcome]:
        """Step all lanes."""
        batch = self.env.step(actions)
        self.observation = batch["observation"]
        ended = np.logical_or(batch["terminated"], batch["truncated"])
        rows = self._observations(batch)
        lanes = range(self.num_envs)
        if self.mode == AutoresetMode.NEXT_STEP:
            outcomes = [
                StepOutcome(None, _start_of(batch, i, rows[i]))
                if self._resets_next[i]
                else _going(batch, i, rows[i])
                for i in lanes
            ]
            self._resets_next = ended
        elif self.mode == AutoresetMode.SAME_STEP:
            outcomes = [(_ended if ended[i] else _going)(batch, i, rows[i]) for i in lanes]
        else:
            outcomes = [_going(batch, i, rows[i]) for i in lanes]
            if ended.any():
                starts = self._starts(self.env.reset(options={"reset_mask": ended}))
                outcomes = [
                    StepOutcome(outcome.step, starts[i] if ended[i] else None)
                    for i, outcome in enumerate(outcomes)
                ]
        return outcomes

    def state(self) -> dict[str, Any]:
        """Where the environments are, in nested plain values."""
        return {
            "observation": copied(self.observation),
            "lanes": [one.log.state() for one in self._logged],
            "vector": remember(self.env.env, innermost=bool(self._logged)),
            "resets_next": self._resets_next.copy(),
        }

    def load_state(self, state: dict[str, Any]) -> str:
        """Go on where another stage was; see `SingleStage.load_state`.

        Raises:
            ConfigError: if the other stage is of other environments.
        """
        why = _replay([one.log for one in self._logged], state["lanes"])
        if not self._logged:
            why = f"{type(self.env.unwrapped).__name__} does not step them in this process"
        if not why:
            for one in self._logged:
                one.stays = True
            self.env.reset()  # so that all that stands around the environments begins too
        recall(self.env.env, state["vector"])
        self.observation = state["observation"]
        self._resets_next = np.array(state["resets_next"])
        return why

    def actions(self, batch: Any) -> list[Any]:
        """The policy's actions, by lane; see `actions_by_lane`."""
        return list(map(copied, actions_by_lane(self.env.action_space, batch, self.num_envs)))

    def rows(self, values: Any) -> list[Any]:
        """What the policy recorded under one name, by lane.

        Raises:
            ConfigError: if it has no entry for one of the lanes.
        """
        try:
            return [copied(values[i]) for i in range(self.num_envs)]
        except (TypeError, LookupError) as error:
            raise ConfigError(
                f"the policy's extras must have one entry for each of the {self.num_envs} "
                f"environments, got {values!r:.80}"
            ) from error

    def _observations(self, batch: Any) -> list[Any]:
        """The observations by lane."""
        return [copied(o) for o in iterate(self.env.observation_space, batch["observation"])]

    def _starts(self, start: dict[str, Any]) -> list[dict[str, Any]]:
        self.observation = start["observation"]
        rows = self._observations(start)
        return [_start_of(start, i, rows[i]) for i in range(self.num_envs)]


def _replay(logs: list[EpisodeLog], states: list[dict[str, Any]]) -> str:
    """Replay an episode in each environment; says why one of them came to another place."""
    if len(logs) != len(states):
        raise ConfigError(
            f"the checkpoint is of {len(states)} environments; there are {len(logs)} here: resume "
            "with as many"
        )
    reasons = [log.replay(state) for log, state in zip(logs, states)]
    if not any(reasons):
        return ""
    for log, state in zip(logs, states):
        log.give_up(state)
    lane = next(i for i, reason in enumerate(reasons) if reason)
    return f"environment {lane}: {reasons[lane]}" if len(logs) > 1 else reasons[0]


def actions_by_lane(space: Any, batch: Any, num_envs: int) -> list[Any]:
    """The actions that a policy gave for a vector environment, one after another.

    Args:
        space: the vector environment's action space.
        batch: what the policy gave.
        num_envs: how many environments there are.

    Raises:
        ConfigError: if it is not a batch of so many actions.
    """
    try:
        actions = list(iterate(space, batch))
    except (TypeError, KeyError) as error:  # of what is not a batch
        raise ConfigError(
            f"the policy must give a batch of {num_envs} actions, one for each environment, "
            f"got {batch!r:.80}"
        ) from error
    if len(actions) != num_envs:
        raise ConfigError(f"the policy gave {len(actions)} actions for {num_envs} environments")
    return actions


def _going(batch: Step, i: int, observation: Any) -> StepOutcome:
    return StepOutcome(_sub_step(batch, i, observation, copied(sub_info(batch["info"], i))), None)


def _ended(batch: Step, i: int, observation: Any) -> StepOutcome:
    """The outcome of a lane that ended and began anew in the same step."""
    info = batch["info"]
    final = copied(sub_info(info.get("final_info", {}), i))
    start = _start_of(batch, i, observation)
    for key in ("final_obs", "final_info"):
        start["info"].pop(key, None)
    return StepOutcome(_sub_step(batch, i, copied(info["final_obs"][i]), final), start)


def _sub_step(batch: Step, i: int, observation: Any, info: dict[str, Any]) -> Step:
    return Step(
        observation=observation,
        reward=batch["reward"][i],
        terminated=bool(batch["terminated"][i]),
        truncated=bool(batch["truncated"][i]),
        info=info,
    )


def _start_of(batch: Any, i: int, observation: Any) -> dict[str, Any]:
    return {"observation": observation, "info": copied(sub_info(batch["info"], i))}


def sub_info(infos: dict[str, Any], i: int) -> dict[str, Any]:
    """The info of lane i from a vector environment; its ``_key`` says which lanes have ``key``."""
    info = {}
    masks = {f"_{key}" for key in infos}  # keys need not be text
    for key, value in infos.items():
        if key in masks:
            continue
        if f"_{key}" in infos and not infos[f"_{key}"][i]:
            continue
        item = sub_info(value, i) if isinstance(value, dict) else value[i]
        info[key] = item.item() if isinstance(item, np.generic) else item
    return info
