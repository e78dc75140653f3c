"""Steps environments side by side, and resets them when their episodes end.

A *stage* holds the lanes of a rollout: one environment, or all those of a vector environment. It
steps all of them. For each lane it gives the step and, if an episode has begun since, the start of
that episode. So a loop over a stage need not know how its environments are reset.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import AutoresetMode

from textenv.wrappers.step import DictStep, Step


class StepOutcome(NamedTuple):
    """The result of one step of a stage for one lane."""

    step: Step | None
    """The transition; None if this step only reset the lane."""
    start: dict[str, Any] | None
    """``{"observation", "info"}`` of the episode that has begun since; None if there is none."""


class SingleStage:
    """One environment that steps in dicts; it is reset as soon as its episode ends."""

    num_envs = 1

    def __init__(self, env: Any):
        self.env = env
        self.observation: Any = None
        """What the policy is given."""

    def reset(self, seed: int | None) -> list[dict[str, Any]]:
        """Start the first episode, and give its start."""
        start = self.env.reset(seed=seed)
        self.observation = start["observation"]
        return [start]

    def step(self, action: Any) -> list[StepOutcome]:
        """Step, and reset if the episode has ended."""
        step = self.env.step(action)
        over = step["terminated"] or step["truncated"]
        start = self.env.reset() if over else None
        self.observation = (start or step)["observation"]
        return [StepOutcome(step, start)]

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
        """What the policy is given, as a batch."""
        self._resets_next = np.zeros(self.num_envs, bool)

    def reset(self, seed: int | list[int] | None) -> list[dict[str, Any]]:
        """Start the first episodes; a list of seeds gives each lane one of its own."""
        start = self.env.reset(seed=seed)
        self._resets_next[:] = False
        return self._starts(start)

    def step(self, actions: Any) -> list[StepOutcome]:
        """Step all lanes."""
        step = self.env.step(actions)
        self.observation = step["observation"]
        ended = np.logical_or(step["terminated"], step["truncated"])
        if self.mode == AutoresetMode.NEXT_STEP:
            outcomes = [
                StepOutcome(None, _start_of(step, i)) if self._resets_next[i] else _going(step, i)
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
                    StepOutcome(outcome.step, starts[i] if ended[i] else None)
                    for i, outcome in enumerate(outcomes)
                ]
        return outcomes

    def rows(self, values: Any) -> list[Any]:
        """The policy's answer, by lane."""
        return [_item(values, i) for i in range(self.num_envs)]

    def _starts(self, start: dict[str, Any]) -> list[dict[str, Any]]:
        self.observation = start["observation"]
        return [_start_of(start, i) for i in range(self.num_envs)]


def _going(step: Step, i: int) -> StepOutcome:
    return StepOutcome(
        _sub_step(step, i, _item(step["observation"], i), sub_info(step["info"], i)), None
    )


def _ended(step: Step, i: int) -> StepOutcome:
    """The outcome of a lane that ended and began anew in the same step."""
    info = step["info"]
    final = sub_info(info.get("final_info", {}), i)
    begun = {k: v for k, v in sub_info(info, i).items() if k not in ("final_obs", "final_info")}
    start = {"observation": _item(step["observation"], i), "info": begun}
    return StepOutcome(_sub_step(step, i, info["final_obs"][i], final), start)


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


def _item(batch: Any, i: int) -> Any:
    """Lane i of a batch of observations, actions or extras, copied out of shared arrays."""
    if isinstance(batch, dict):
        return {key: _item(value, i) for key, value in batch.items()}
    if isinstance(batch, tuple) and batch and not isinstance(batch[0], str):
        return tuple(_item(part, i) for part in batch)
    item = batch[i]
    return item.copy() if isinstance(item, np.ndarray) else item
