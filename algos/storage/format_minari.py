"""Rollouts as Minari datasets: a folder ``NAME.minari`` that holds ``data`` in Minari's layout.

``minari.MinariDataset("NAME.minari/data")`` opens it, and so does
``minari.load_dataset("NAME.minari")`` if ``MINARI_DATASETS_PATH`` names the folder that it is in.
An episode of Minari is a trajectory here. If the rollout ends in the middle of an episode, the
last truncation is set, as Minari's own collector does, and the next trajectory of the same
``env_index`` does not start at a reset. Minari holds the spaces, observations, actions, rewards,
flags and seeds. Everything else (log-probabilities, values, infos, tokens, the true flags) is JSON
under ``textenv`` in the metadata of the dataset and of each episode.

Minari's Text space lists its characters; here these are the characters of the rollout.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import WrapperSpec
from gymnasium.spaces import Space

from textenv.algos.episodes.trajectory import Buffer, RolloutSource, Trajectory
from textenv.algos.storage import codec as codec
from textenv.algos.storage.format_json import check_count, check_header, make_header
from textenv.algos.storage.space_json import make_space
from textenv.errors import DataError, MissingDependencyError

_KEY = "textenv"
_HELD = ("observations", "final_observation", "actions", "rewards")  # Minari has these itself
_FAULTS = (AssertionError, OSError, *codec.FAULTS)


def prepare(rollout: Buffer) -> Callable[[Path], None]:
    """Encode a rollout; returns a function that writes it to a path.

    Raises:
        DataError: if the rollout does not name its spaces, has values outside them, or arrays
            without items.
    """
    minari = _minari()
    source = rollout.source or RolloutSource()
    if source.observation_space is None or source.action_space is None:
        raise DataError(
            "a Minari dataset needs the spaces: set the rollout's source to "
            "describe_source(runner), or save it in another format"
        )
    text = _characters(rollout)
    observation_space = _minari_space(make_space(source.observation_space), text)
    action_space = _minari_space(make_space(source.action_space), text)
    header, rows = make_header(rollout), codec.encode_rollout(rollout)
    written = codec.decode_rollout(rows, header["source"], "the rollout")  # infos have text now
    episodes, rests = [], []
    for number, (trajectory, row) in enumerate(zip(rollout, rows)):
        try:
            observations = codec.pack([*trajectory.observations, trajectory.final_observation])
            actions = codec.pack(trajectory.actions)
            episodes.append(
                minari.data_collector.EpisodeBuffer(
                    seed=trajectory.seed,
                    observations=_to_minari(observation_space, observations),
                    actions=_to_minari(action_space, actions),
                    rewards=np.array(trajectory.rewards, np.float64),
                    **_flags(trajectory),
                )
            )
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"trajectory {number} cannot be written to a Minari dataset: {error}"
            ) from error
        rest = {name: value for name, value in row.items() if name not in _HELD}
        outlines = {"observations": codec.outline(observations), "actions": codec.outline(actions)}
        rests.append({_KEY: {**rest, "columns": outlines}})

    def write(path: Path) -> None:
        data = path / "data"
        data.mkdir(parents=True)
        try:
            storage = minari.dataset.minari_storage.MinariStorage.new(
                data,
                observation_space,
                action_space,
                _env_spec(source),
                data_format="arrow",
                jpeg_encoding=False,  # with it images would come back changed
            )
            # Minari adds up all file sizes after each episode: two minutes for 2048 episodes.
            size, storage.get_size = storage.get_size, lambda: 0.0
            storage.update_episodes(episodes)
            storage.update_episode_metadata(rests)
            storage.update_metadata(
                {
                    "dataset_id": re.sub(r"[^\w-]+", "-", path.stem) + "-v0",
                    "minari_version": minari.__version__,
                    "dataset_size": float(size()),
                    _KEY: header,
                }
            )
            same = read(path) == written
        except _FAULTS as error:
            raise DataError(f"Minari cannot hold this rollout: {error}") from error
        if not same:
            raise DataError("Minari gives this rollout back changed: save it in another format")

    return write


def read(path: Path) -> Buffer:
    """Read a rollout from its Minari dataset."""
    minari = _minari()
    try:
        dataset = minari.MinariDataset(path / "data")
        header = dataset.storage.metadata.get(_KEY)
    except _FAULTS as error:
        raise DataError(f"{path} is not a whole Minari dataset: {error}") from error
    check_header(header, path)
    try:
        episodes = list(dataset) if len(dataset) else []
        rests = list(dataset.storage.get_episode_metadata(range(len(episodes))))
        check_count(header, len(episodes), path)
        rows = [_row(rest[_KEY]) for rest in rests]
        rollout = codec.decode_rollout(rows, header["source"], path)
        for trajectory, episode, rest in zip(rollout, episodes, rests):
            columns = rest[_KEY]["columns"]
            *trajectory.observations, trajectory.final_observation = codec.unpack(
                codec.fill(columns["observations"], episode.observations)
            )
            trajectory.actions = codec.unpack(codec.fill(columns["actions"], episode.actions))
            trajectory.rewards = episode.rewards.tolist()
    except DataError:
        raise
    except _FAULTS as error:
        raise DataError(f"{path} is not a whole Minari dataset: {error}") from error
    return rollout


def _row(rest: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in rest.items() if name != "columns"}


def _flags(trajectory: Trajectory) -> dict[str, np.ndarray]:
    terminations = np.zeros(len(trajectory), bool)
    truncations = np.zeros(len(trajectory), bool)
    terminations[-1:] = trajectory.terminated
    truncations[-1:] = trajectory.truncated or not trajectory.terminated
    return {"terminations": terminations, "truncations": truncations}


def _to_minari(space: Space, column: Any) -> Any:
    """A packed column as Minari takes it: arrays of the space's type, dicts, tuples, lists of text.

    Raises:
        ValueError: if the space's type cannot hold the values.
    """
    if isinstance(space, spaces.Dict):
        if not isinstance(column, dict) or column.keys() != space.spaces.keys():
            raise ValueError(f"its items are not those of {space}")
        return {key: _to_minari(part, column[key]) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        if not isinstance(column, tuple) or len(column) != len(space.spaces):
            raise ValueError(f"its items are not those of {space}")
        return tuple(map(_to_minari, space.spaces, column))
    if isinstance(space, spaces.Text):
        if not all(type(item) is str for item in column):
            raise ValueError("its items are not text")
        return list(column)
    array = np.asarray(column)
    held = array.astype(space.dtype)
    if array.dtype.kind not in "biuf" or not np.array_equal(held, array):
        raise ValueError(f"items of {array.dtype} are not held by a space of {space.dtype}")
    return held


def _minari_space(space: Space, characters: str) -> Space:
    """The space as Minari can describe it: text with the characters that occur.

    Raises:
        DataError: if arrays of the space have no items; Arrow divides by their number and ends the
            process.
    """
    if 0 in (space.shape or ()):
        raise DataError(
            f"Minari cannot hold arrays without items, and {space} is a space of them: save the "
            "rollout in another format"
        )
    if isinstance(space, spaces.Dict):
        pairs = [(key, _minari_space(part, characters)) for key, part in space.spaces.items()]
        return spaces.Dict(pairs)  # type: ignore[arg-type]
    if isinstance(space, spaces.Tuple):
        return spaces.Tuple([_minari_space(part, characters) for part in space.spaces])
    if isinstance(space, spaces.Text):
        charset = "".join(sorted({*characters}))
        return spaces.Text(space.max_length, min_length=space.min_length, charset=charset)
    return space


def _characters(value: Any) -> str:
    """All characters in the texts of observations and actions; at least one."""
    found: set[str] = set(" ")
    stack = [[t.observations, t.final_observation, t.actions] for t in value]
    while stack:
        item: Any = stack.pop()
        if isinstance(item, str):
            found.update(item)
        elif isinstance(item, (list, tuple)):
            stack.extend(item)
        elif isinstance(item, dict):
            stack.extend(item.values())
    return "".join(found)


def _env_spec(source: RolloutSource) -> Any:
    """What Minari makes the environment from.

    None if its id is not registered here, or if what is known does not make the same one: wrappers
    that are not known, or arguments of which the rollout has only the names.
    """
    wrappers = source.env_wrappers
    if source.env_id not in gym.registry or wrappers is None:
        return None
    if _has_names([source.env_kwargs, wrappers]) or any(w["kwargs"] is None for w in wrappers):
        return None
    spec = copy.deepcopy(gym.registry[source.env_id])
    kwargs = dict(source.env_kwargs)
    spec.max_episode_steps = kwargs.pop("max_episode_steps", spec.max_episode_steps)
    spec.kwargs = {**spec.kwargs, **kwargs}
    spec.additional_wrappers = tuple(WrapperSpec(**wrapper) for wrapper in wrappers)
    return spec


def _has_names(value: Any) -> bool:
    """Whether a name in angle brackets, of a function, say, stands in place of an argument."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return any(map(_has_names, value))
    return isinstance(value, str) and value.startswith("<") and value.endswith(">")


def _minari() -> ModuleType:
    try:
        import minari
        import minari.dataset._storages.arrow_storage
        import minari.dataset.minari_storage
    except ImportError as error:
        raise MissingDependencyError("minari", "export", "A rollout as a Minari dataset") from error
    return minari
