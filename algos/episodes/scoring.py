"""Handles reward functions of text that fail, as it is configured.

A step fails if a reward function raises, gives no finite number, takes longer than its limit of
time, or ended its process. `Scoring` then does what ``on_error`` says:

- ``"fail"``: the error is raised, and its ``details`` hold the prompt and the completion;
- ``"skip"``: the episode ends unscored, and its group is left out of the rollout;
- a number: the episode ends with this reward.
"""

from __future__ import annotations

import json
import math
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from textenv.algos.episodes.episode import Lane
from textenv.algos.episodes.trajectory import Trajectory
from textenv.errors import ConfigError, RewardError
from textenv.wrappers.step import Step

DETAILS_FILE = "reward_error.json"
"""The file in a run's folder with the prompt and completion of a reward function that failed."""

_MARK = "reward_error"  # in the info of a step whose reward function failed


class Scored(NamedTuple):
    """A completion that is scored, so that it can be found again."""

    noise: int | None
    """The seed of the noise of this very turn, which no other turn of a rollout has."""
    prompt: str | None
    completion: str


class Scoring:
    """Says what a step is whose reward function failed.

    Args:
        on_error: ``"fail"``, ``"skip"``, or the reward of an episode whose reward function failed.

    Attributes:
        note: called with each completion before its step, and with None after the last one, by a
            process that may not survive the step; None: nobody wants to know.
        refused: completions that are not scored again, because that ended the process or never
            came to an end, and the reason; they count as failed.

    Raises:
        ConfigError: for another ``on_error``.
    """

    def __init__(self, on_error: str | float = "fail"):
        check_on_error(on_error)
        self.on_error = on_error
        self.note: Callable[[Scored | None], None] | None = None
        self.refused: Mapping[Scored, str] = {}

    def begin(self, lane: Lane, action: Any) -> None:
        """Say that the completion of an episode is about to be scored.

        Raises:
            RewardError: if it must not be scored again.
        """
        scored = Scored(lane.noise, lane.trajectory.prompt, action)
        if self.refused and scored in self.refused:
            raise RewardError(self.refused[scored])
        if self.note is not None:
            self.note(scored)

    def done(self) -> None:
        """Say that no completion is being scored any more."""
        if self.note is not None:
            self.note(None)

    def failed(self, lane: Lane, action: Any, error: RewardError) -> Step:
        """The step that ends an episode whose reward function failed.

        Args:
            lane: the episode.
            action: the completion.
            error: what was raised.

        Raises:
            RewardError: that error, with its ``details``, if ``on_error`` is ``"fail"``.
        """
        if self.on_error == "fail":
            error.details = error.details or {
                "error": str(error),
                "prompt": lane.trajectory.prompt,
                "completion": action,
                "observation": lane.observation,
                "reset_info": lane.trajectory.reset_info,
                "traceback": "".join(traceback.format_exception(error)),
            }
            raise error
        info: dict[str, Any] = {"completion": action, "rewards": {}, _MARK: str(error)}
        reward = 0.0
        if self.on_error == "skip":
            info["scored"] = False
        else:
            reward = float(self.on_error)
        return Step(
            observation=f"{lane.observation}{action}",
            reward=reward,
            terminated=True,
            truncated=False,
            info=info,
        )


def check_on_error(value: Any) -> None:
    """Check what to do if a reward function fails.

    Raises:
        ConfigError: unless it is ``"fail"``, ``"skip"`` or a finite number.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value not in ("fail", "skip") and not (is_number and math.isfinite(value)):
        raise ConfigError(
            f"on_reward_error must be 'fail', 'skip' or a reward, which is a number, got {value!r}"
        )


def has_failed(trajectory: Trajectory) -> bool:
    """Whether a reward function failed in an episode."""
    return any(_MARK in info for info in trajectory.infos)


def count_failed(trajectories: Iterable[Trajectory]) -> int:
    """In how many episodes a reward function failed."""
    return sum(map(has_failed, trajectories))


@contextmanager
def kept_for_inspection(folder: str | Path | None) -> Iterator[None]:
    """Write the prompt and the completion of a reward function that fails inside, and say where.

    Args:
        folder: it is made if need be; None writes nothing. The file is ``reward_error.json``.
    """
    try:
        yield
    except RewardError as error:
        if folder is None or error.details is None:
            raise
        path = Path(folder) / DETAILS_FILE
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(error.details, indent=2, default=repr) + "\n")
        except OSError as trouble:
            where = f"the prompt and the completion could not be written to {path}: {trouble}"
        else:
            where = f"the whole prompt and completion are in {path}"
        error.args = (f"{error}; {where}",)
        raise
