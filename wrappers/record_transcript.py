"""`RecordTranscript`: writes the episodes of an environment to a file of JSON Lines."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from textenv.errors import ConfigError, DataError
from textenv.wrappers.copying import copied
from textenv.wrappers.plain_info import plain_info

HEADER = {"format": "textenv.rollout", "schema_version": 3}
"""The first line of a transcript file. Each other line is a trajectory."""


class RecordTranscript(gym.Wrapper, RecordConstructorArgs):
    """Writes every episode of an environment to ``folder/transcript_{index}.jsonl``.

    The file appears, complete, when the environment is closed. Until then its lines are in a
    hidden file in the same folder. The index counts up within a folder, and several environments
    may use one folder. The file is a rollout in JSON Lines: `textenv.algos.load_rollout` reads it.

    The first line is `HEADER`. Then there is one line for each episode, an object with

    * ``observations``, ``actions``, ``rewards``, ``infos``: lists with one item per step; an
      observation is what the agent saw before the action;
    * ``final_observation``, ``terminated``, ``truncated``; both are false if the episode was
      abandoned before its end;
    * ``reset_info``; ``seed``, if the reset had one; and ``prompt``, if observations are text.

    An array is ``{"dtype": name, "shape": list, "data": list}``. The wrapper records what passes
    through its place in a stack of wrappers: as the innermost one it records text, as the
    outermost one what the agent saw and did.

    It wraps a single environment. For a vector environment, ``gym.make_vec(...,
    vectorization_mode="sync", wrappers=[...])`` wraps each of its environments, and each writes its
    own file.

    Args:
        env: any environment whose observations and actions consist of arrays and of values that
            JSON allows. In infos other values are written as text, see `plain_info`.
        folder: the folder of the file; it is made if it does not exist.
    """

    def __init__(self, env: gym.Env, folder: str | os.PathLike[str]):
        RecordConstructorArgs.__init__(self, folder=os.fspath(folder))
        gym.Wrapper.__init__(self, env)
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise ConfigError(f"folder must be a folder, but {self.folder} is a file")
        self.path: Path | None = None  # path of the last transcript that was written
        self._unfinished: Path | None = None
        self._episodes = 0
        self._row: dict[str, Any] | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode; an unfinished episode before it is recorded too.

        Raises:
            DataError: if the unfinished episode has values that JSON does not allow.
        """
        self._keep()
        observation, info = self.env.reset(seed=seed, options=options)
        self._row = {
            "observations": [],
            "actions": [],
            "rewards": [],
            "infos": [],
            "final_observation": copied(observation),
            "terminated": False,
            "truncated": False,
            "reset_info": copied(info),
        }
        if seed is not None:
            self._row["seed"] = seed
        if isinstance(observation, str):
            self._row["prompt"] = observation
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take an action, and record the step.

        Raises:
            DataError: at the end of an episode that has values that JSON does not allow.
        """
        taken = copied(action)  # before the environment can change it
        observation, reward, terminated, truncated, info = self.env.step(action)
        row = self._row
        if row is not None:
            row["observations"].append(row["final_observation"])
            row["actions"].append(taken)
            row["rewards"].append(float(reward))
            row["infos"].append(copied(info))
            row["final_observation"] = copied(observation)
            row["terminated"], row["truncated"] = bool(terminated), bool(truncated)
            if terminated or truncated:
                self._keep()
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Write the transcript file, and close the environment."""
        try:
            self._keep()
            if self._unfinished is not None:
                self.path = _free_name(self.folder)
                os.replace(self._unfinished, self.path)
                self._unfinished, self._episodes = None, 0
        finally:
            self.env.close()

    def _keep(self) -> None:
        """Append the episode to the hidden file."""
        row, self._row = self._row, None
        if row is None or not row["actions"]:
            return
        try:
            plain = {"infos": plain_info(row["infos"]), "reset_info": plain_info(row["reset_info"])}
            line = json.dumps(row | plain, default=_encode, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"episode {self._episodes} cannot be written as JSON: {error}"
            ) from error
        if self._unfinished is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._unfinished = self.folder / f".saving-{uuid.uuid4().hex}"
            line = f"{json.dumps(HEADER)}\n{line}"
        with self._unfinished.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self._episodes += 1


def _free_name(folder: Path) -> Path:
    """The next free name in the folder, which is reserved by an empty file."""
    index = 0
    while True:
        path = folder / f"transcript_{index}.jsonl"
        try:
            path.open("x").close()
        except FileExistsError:
            index += 1
        else:
            return path


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"dtype": str(value.dtype), "shape": value.shape, "data": value.tolist()}
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not JSON")
