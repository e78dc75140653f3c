"""Environments side by side: what each one's step was, whatever its way of starting anew.

A *lane* is one environment, alone or inside a vector environment. A stage steps all its lanes and
says for each what the step was and, where an episode has begun since, from what it begins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import AutoresetMode

from textenv.algos.episodes.trajectory import Trajectory
from textenv.errors import ConfigError
from textenv.wrappers.step import DictStep, Step, standardize_reset, standardize_step


class Outcome(NamedTuple):
    """What one step of a stage was for one lane."""

    step: Step | None
    """The transition; None where this step only reset the lane."""
    start: dict[str, Any] | None
    """``{"observation", "info"}`` of the episode that has begun since, if one has."""


# extras of a policy -> the field of a trajectory that they are appended to, one a step
_BY_STEP = {"value": "values", "logprob": "logprobs", "unclipped_action": "unclipped_actions"}


class Turn(NamedTuple):
    """What happened in one turn of an episode of text."""

    action: str
    extras: dict[str, Any]
    """What the policy recorded."""
    observation: str
    """What came after it."""


class Lane:
    """One environment's episode under way, and the trajectory that it leaves."""

    def __init__(
        self,
        start: dict[str, Any],
        policy_version: int,
        seed: int | None = None,
        env_index: int | None = None,
        noise: int | None = None,
    ):
        self._noise = noise
        self.observation = start["observation"]
        self.info = start["info"]
        self.starts = True
        """Whether the next action is the first of its episode."""
        self.trajectory = Trajectory(
            seed=seed,
            policy_version=policy_version,
            env_index=env_index,
            reset_info=start["info"],
            final_observation=start["observation"],
        )
        if isinstance(self.observation, str):
            self.trajectory.prompt = self.observation

    @property
    def ended(self) -> bool:
        """Whether the episode is over."""
        return self.trajectory.terminated or self.trajectory.truncated

    @property
    def context(self) -> list[int] | None:
        """Token ids of the episode so far; None before a policy has recorded any."""
        if self.trajectory.prompt_ids is None:
            return None
        return self.trajectory.prompt_ids + (self.trajectory.token_ids or [])

    @property
    def noise(self) -> int | None:
        """Seed of the noise of the next action, another one each turn; None: the policy's own."""
        return None if self._noise is None else self._noise + len(self.trajectory)

    def record(self, action: Any, extras: dict[str, Any], step: Step) -> None:
        """Add a transition, and what the policy recorded beside it."""
        trajectory = self.trajectory
        trajectory.observations.append(self.observation)
        trajectory.actions.append(action)
        trajectory.rewards.append(float(step["reward"]))
        trajectory.infos.append(step["info"])
        trajectory.terminated, trajectory.truncated = step["terminated"], step["truncated"]
        trajectory.final_observation = step["observation"]
        self.observation, self.info, self.starts = step["observation"], step["info"], False
        for key, name in _BY_STEP.items():
            if key in extras:
                if getattr(trajectory, name) is None:
                    setattr(trajectory, name, [])
                value = extras[key]
                getattr(trajectory, name).append(
                    value if key == "unclipped_action" else float(value)
                )
        if "token_ids" in extras:
            _record_tokens(trajectory, extras)

    def cut(self, policy_version: int) -> Lane:
        """The rest of the episode, as a lane of its own, where a rollout ends in the middle."""
        start = {"observation": self.observation, "info": self.info}
        rest = Lane(start, policy_version, env_index=self.trajectory.env_index)
        rest.starts = self.starts
        return rest


def replay(
    lanes: Sequence[Lane],
    turns: Sequence[Sequence[Turn]],
    step: Callable[[dict[int, Any]], dict[int, Step]],
) -> None:
    """Play turns of other episodes from the same starts again.

    Args:
        lanes: where episodes have just begun.
        turns: for each lane; none of them ended its episode.
        step: the actions of some lanes -> what their environments answer.

    Raises:
        ConfigError: where an environment answers something else this time.
    """
    for t in range(max(map(len, turns), default=0)):
        here = {i: some[t] for i, some in enumerate(turns) if t < len(some)}
        answers = step({i: turn.action for i, turn in here.items()})
        for i, turn in here.items():
            lanes[i].record(turn.action, turn.extras, answers[i])
            if lanes[i].ended or lanes[i].observation != turn.observation:
                raise ConfigError(
                    f"turn {t + 1} was played again and the environment answered "
                    f"{lanes[i].observation!r:.80}, where it had answered "
                    f"{turn.observation!r:.80}: branches after a turn need an environment whose "
                    "answers follow from its seed and the actions alone"
                )


def _record_tokens(trajectory: Trajectory, extras: dict[str, Any]) -> None:
    """Append a turn's tokens, and before them what the environment said since the last turn.

    Raises:
        ValueError: where the policy did not go on from the tokens that it had.
    """
    prompt_ids, token_ids = list(extras["prompt_ids"]), list(extras["token_ids"])
    count = len(token_ids)
    logprobs = list(extras["token_logprobs"])
    entropies = list(extras.get("token_entropies") or [0.0] * count)
    support = extras.get("support")
    trajectory.completion_truncated = extras.get("truncated")
    trajectory.temperature = extras.get("temperature")
    if trajectory.prompt_ids is None:
        trajectory.prompt_ids = prompt_ids
        trajectory.token_ids, trajectory.token_mask = token_ids, [1] * count
        trajectory.token_logprobs, trajectory.token_entropies = logprobs, entropies
        trajectory.support = None if support is None else list(support)
        return
    before = trajectory.prompt_ids + (trajectory.token_ids or [])
    if prompt_ids[: len(before)] != before:
        raise ValueError(
            "the policy encoded its own earlier turns again and got other tokens; a policy of "
            "many turns must go on from the token ids that it sampled"
        )
    said = prompt_ids[len(before) :]  # by the environment
    trajectory.token_ids = before[len(trajectory.prompt_ids) :] + said + token_ids
    trajectory.token_mask = (trajectory.token_mask or []) + [0] * len(said) + [1] * count
    silence = [0.0] * len(said)
    trajectory.token_logprobs = (trajectory.token_logprobs or []) + silence + logprobs
    trajectory.token_entropies = (trajectory.token_entropies or []) + silence + entropies
    if trajectory.support is not None and support is not None:
        trajectory.support += [np.array([token], np.int32) for token in said] + list(support)


class SingleStage:
    """One environment that steps in dicts; it is reset as soon as its episode ends."""

    num_envs = 1

    def __init__(self, env: Any):
        self.env = env
        self.observation: Any = None
        """What the policy is given."""

    def reset(self, seed: int | None) -> list[dict[str, Any]]:
        """Start the first episode."""
        start = standardize_reset(self.env.reset(seed=seed))
        self.observation = start["observation"]
        return [start]

    def step(self, action: Any) -> list[Outcome]:
        """Step, and reset where the episode has ended."""
        step = standardize_step(self.env.step(action))
        over = step["terminated"] or step["truncated"]
        start = standardize_reset(self.env.reset()) if over else None
        self.observation = (start or step)["observation"]
        return [Outcome(step, start)]

    @staticmethod
    def rows(values: Any) -> list[Any]:
        """The policy's answer, by lane."""
        return [values]


class VectorStage:
    """A Gymnasium vector environment, in any of its three autoreset modes."""

    def __init__(self, env: DictStep):
        self.env = env
        self.num_envs: int = env.env.num_envs  # type: ignore[union-attr]
        self.mode = env.env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self.observation: Any = None
        """What the policy is given: a batch."""
        self._resets_next = np.zeros(self.num_envs, bool)

    def reset(self, seed: int | list[int] | None) -> list[dict[str, Any]]:
        """Start the first episodes; a list of seeds has one for each lane."""
        start = self.env.reset(seed=seed)
        self._resets_next[:] = False
        return self._starts(start)

    def step(self, actions: Any) -> list[Outcome]:
        """Step all lanes."""
        step = self.env.step(actions)
        self.observation = step["observation"]
        ended = np.logical_or(step["terminated"], step["truncated"])
        if self.mode == AutoresetMode.NEXT_STEP:
            outcomes = [
                Outcome(None, _start_of(step, i)) if self._resets_next[i] else _going(step, i)
                for i in range(self.num_envs)
            ]
            self._resets_next = ended
        elif self.mode == AutoresetMode.SAME_STEP:
            outcomes = [
                _ended(step, i) if ended[i] else _going(step, i) for i in range(self.num_envs)
            ]
        else:
            outcomes = [_going(step, i) for i in range(self.num_envs)]
            if ended.any():
                starts = self._starts(self.env.reset(options={"reset_mask": ended}))
                outcomes = [
                    Outcome(outcome.step, starts[i] if ended[i] else None)
                    for i, outcome in enumerate(outcomes)
                ]
        return outcomes

    def rows(self, values: Any) -> list[Any]:
        """The policy's answer, by lane."""
        return [_item(values, i) for i in range(self.num_envs)]

    def _starts(self, start: dict[str, Any]) -> list[dict[str, Any]]:
        self.observation = start["observation"]
        return [_start_of(start, i) for i in range(self.num_envs)]


def _going(step: Step, i: int) -> Outcome:
    return Outcome(
        _sub_step(step, i, _item(step["observation"], i), sub_info(step["info"], i)), None
    )


def _ended(step: Step, i: int) -> Outcome:
    """A lane that ended and began anew in the same step."""
    info = step["info"]
    final = sub_info(info.get("final_info", {}), i)
    begun = {k: v for k, v in sub_info(info, i).items() if k not in ("final_obs", "final_info")}
    start = {"observation": _item(step["observation"], i), "info": begun}
    return Outcome(_sub_step(step, i, info["final_obs"][i], final), start)


def _sub_step(step: Step, i: int, observation: Any, info: dict[str, Any]) -> Step:
    return Step(
        observation=observation,
        reward=step["reward"][i],
        terminated=bool(step["terminated"][i]),
        truncated=bool(step["truncated"][i]),
        info=info,
    )


def _start_of(batch: Any, i: int) -> dict[str, Any]:
    return {"observation": _item(batch["observation"], i), "info": sub_info(batch["info"], i)}


def sub_info(infos: dict[str, Any], i: int) -> dict[str, Any]:
    """One lane's info out of a vector environment's, where ``_key`` says who has ``key``."""
    info = {}
    for key, value in infos.items():
        if key.startswith("_") and key[1:] in infos:
            continue
        if f"_{key}" in infos and not infos[f"_{key}"][i]:
            continue
        item = sub_info(value, i) if isinstance(value, dict) else value[i]
        info[key] = item.item() if isinstance(item, np.generic) else item
    return info


def _item(batch: Any, i: int) -> Any:
    """Lane i of a batch of observations, actions or extras, copied out of shared arrays."""
    if isinstance(batch, dict):
        return {key: _item(value, i) for key, value in batch.items()}
    if isinstance(batch, tuple) and batch and not isinstance(batch[0], str):
        return tuple(_item(part, i) for part in batch)
    item = batch[i]
    return item.copy() if isinstance(item, np.ndarray) else item
