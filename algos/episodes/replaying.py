"""Brings an environment back to the middle of an episode.

The state of an environment cannot be copied in general: it may lie in a simulator, or behind
objects that no file can hold. So what leads to it is recorded: what the random generators and the
wrappers held before the episode was reset, and the actions since. Another environment that is made
alike is set to the first, reset, and given the same actions. If it shows the same observation
then, and its generators stand where those of the first one stood, it has come to the same place.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable
from typing import Any

import gymnasium as gym
import numpy as np

from textenv.errors import ConfigError
from textenv.wrappers.copying import OwnLastStep, copied
from textenv.wrappers.step import CheckedStep, DictStep

Memory = list[dict[str, Any]]
"""What the layers of an environment hold that outlasts an episode; see `remember`."""

_PLAIN = frozenset([bool, int, float, str, type(None)])
_NOT_PLAIN = object()
_MOMENTS = ("mean", "var", "count")  # of an object that keeps running statistics


class EpisodeLog:
    """Resets and steps an environment, and records what leads to the place where it is.

    Args:
        env: the environment; its resets and steps may give tuples or dicts. Between two of its
            steps, nobody may change the observation that it gave.
    """

    def __init__(self, env: Any):
        self._env, self._layers = env, _layers(env)
        self._last: Any = None  # what the last reset or step gave
        self._before: Memory | None = None  # the last reset
        self._reset: dict[str, Any] = {}
        self._actions: list[Any] = []

    def reset(self, **kwargs: Any) -> Any:
        """Reset the environment; returns what it gives."""
        before = _remember(self._layers, innermost=False)
        self._last = result = self._env.reset(**kwargs)
        self._before, self._reset, self._actions = before, copied(kwargs), []
        return result

    def step(self, action: Any) -> Any:
        """Step the environment; returns what it gives."""
        fixed = type(action) in _PLAIN or isinstance(action, np.generic)
        self._actions.append(action if fixed else copied(action))
        self._last = result = self._env.step(action)
        return result

    @property
    def seen(self) -> Any:
        """A copy of the last observation; None before the first reset."""
        return None if self._last is None else copied(_parts(self._last)[0])

    def state(self) -> dict[str, Any]:
        """What leads to the place where the environment is, and how to tell that place."""
        return {
            "before": self._before,
            "reset": self._reset,
            "actions": list(self._actions),
            "seen": self.seen,
            "now": remember(self._env),
        }

    def replay(self, state: dict[str, Any]) -> str:
        """Bring this environment to the place where another one was when it gave its ``state``.

        Returns:
            Why it did not come there; empty if it did.

        Raises:
            ConfigError: if the other one has other wrappers.
        """
        if state["before"] is None:
            return ""
        recall(self._env, state["before"])
        ended = False
        try:
            self.reset(**state["reset"])
            for number, action in enumerate(state["actions"]):
                if ended:
                    return f"its episode ended after {number} of {len(state['actions'])} steps"
                ended = _parts(self.step(action))[1]
        except Exception as error:  # an environment may raise anything where it was not before
            return f"it raised {error!r:.200}"
        if not same(seen := self.seen, state["seen"]):
            return f"it shows {seen!r:.80} where it showed {state['seen']!r:.80}"
        here, there = (
            [layer["random"] for layer in m] for m in (remember(self._env), state["now"])
        )
        return "" if same(here, there) else "it drew other random numbers"

    def give_up(self, state: dict[str, Any]) -> None:
        """Take over what outlasts an episode, so that a new episode can begin."""
        recall(self._env, state["now"])


class LoggedEnv(gym.Wrapper):
    """Records what leads to the place where an environment of a vector environment is.

    Attributes:
        log: the record.
        stays: whether the next reset leaves the environment where it is.
    """

    def __init__(self, env: gym.Env):
        super().__init__(env)
        self.log, self.stays = EpisodeLog(env), False

    @classmethod
    def around(cls, envs: Iterable[gym.Env]) -> list[gym.Env]:
        """These environments, wrapped unless they are already."""
        return [env if isinstance(env, cls) else cls(env) for env in envs]

    @property
    def spec(self) -> Any:  # type: ignore[override]
        """The spec of the environment: this wrapper is no part of it."""
        return self.env.spec

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode, unless it is to stay; then the info is empty."""
        if self.stays:
            self.stays = False
            return self.log.seen, {}
        return self.log.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take an action."""
        return self.log.step(action)


# These hold nothing that outlasts a step, and may stand around an environment more than once.
_BARE = (OwnLastStep, CheckedStep, DictStep, LoggedEnv)


def remember(env: Any, innermost: bool = False) -> Memory:
    """What an environment and its wrappers hold that outlasts an episode.

    That is the random generators of all layers, and the plain values and running statistics of
    wrappers. Other objects that a wrapper holds are left out, and so are the values of the
    innermost environment, which a reset makes.

    Args:
        env: the environment, single or vector.
        innermost: whether to take the plain values of the innermost one too.
    """
    return _remember(_layers(env), innermost)


def recall(env: Any, memory: Memory) -> None:
    """Give an environment what another one held that was made alike.

    Raises:
        ConfigError: if the other one has other wrappers.
    """
    every = _layers(env)
    here, there = [type(layer).__name__ for layer in every], [saved["kind"] for saved in memory]
    if here != there:
        raise ConfigError(
            f"the checkpoint is of an environment of {', '.join(there)}; this one has "
            f"{', '.join(here)}: resume with the environment that was trained in"
        )
    for layer, saved in zip(every, memory):
        for name, state in saved["random"].items():
            _set_generator(layer, name, state)
        for name, moments in saved["statistics"].items():
            vars(vars(layer)[name]).update(copied(moments))
        for name, value in saved["values"].items():
            _set_value(layer, name, value)


def same(a: Any, b: Any) -> bool:
    """Whether two observations, or other nested values, are equal to the bit; NaN is NaN."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, (np.ndarray, np.generic)) or isinstance(b, (np.ndarray, np.generic)):
        a, b = np.asarray(a), np.asarray(b)
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    return bool(a == b) or (a != a and b != b)


def _parts(result: Any) -> tuple[Any, bool]:
    """The observation of a reset or a step, and whether the episode is over."""
    if isinstance(result, dict):
        return result["observation"], bool(result.get("terminated") or result.get("truncated"))
    return result[0], len(result) == 5 and bool(result[2] or result[3])


def _layers(env: Any) -> list[Any]:
    """An environment's wrappers that may hold something, from the outside, and the innermost."""
    every, here = [], env
    while here is not None:
        every.append(here)
        held = getattr(here, "__dict__", {})
        here = held.get("env", held.get("_env"))
    return [layer for layer in every[:-1] if not isinstance(layer, _BARE)] + every[-1:]


def _remember(layers: list[Any], innermost: bool) -> Memory:
    memory = [_held(layer, plain=True) for layer in layers[:-1]]
    return [*memory, _held(layers[-1], plain=innermost)]


def _held(layer: Any, plain: bool) -> dict[str, Any]:
    """What one layer holds; it is called at every reset, so that it must be quick."""
    generators: dict[str, Any] = {}
    statistics: dict[str, Any] = {}
    values: dict[str, Any] = {}
    for name, value in getattr(layer, "__dict__", {}).items():
        if type(value) in _PLAIN:
            if plain:
                values[name] = value
        elif isinstance(value, np.random.Generator):
            generators[name] = value.bit_generator.state  # a new dict
        elif isinstance(value, np.random.RandomState):
            generators[name] = value.get_state(legacy=False)
        elif isinstance(value, random.Random):
            generators[name] = value.getstate()
        else:
            inner = getattr(value, "__dict__", None)
            if inner is not None:
                if all(moment in inner for moment in _MOMENTS):
                    statistics[name] = copied({moment: inner[moment] for moment in _MOMENTS})
            elif plain and (kept := _plain(value)) is not _NOT_PLAIN:
                values[name] = kept
    kind = type(layer).__name__
    return {"kind": kind, "random": generators, "statistics": statistics, "values": values}


def _set_generator(layer: Any, name: str, state: Any) -> None:
    held = vars(layer).get(name)
    if isinstance(held, random.Random):
        held.setstate(state)
    elif isinstance(held, np.random.RandomState):
        held.set_state(state)
    else:
        if not isinstance(held, np.random.Generator):  # Gymnasium makes np_random when it is used
            held = vars(layer)[name] = np.random.default_rng()
        held.bit_generator.state = state


def _plain(value: Any) -> Any:
    """A copy of a plain value; `_NOT_PLAIN` for any other."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if isinstance(value, (np.ndarray, np.generic)):
        return value.copy() if value.dtype.kind in "biufU" else _NOT_PLAIN
    if kind is dict:
        items = {key: _plain(item) for key, item in value.items()}
        plain = all(type(key) in _PLAIN for key in items)
        return items if plain and not _any_other(items.values()) else _NOT_PLAIN
    if kind in (list, tuple, deque):
        if _PLAIN.issuperset(map(type, value)):
            return value if kind is tuple else value.copy()
        parts = [_plain(item) for item in value]
        if _any_other(parts):
            return _NOT_PLAIN
        return deque(parts, value.maxlen) if kind is deque else kind(parts)
    return _NOT_PLAIN


def _any_other(values: Iterable[Any]) -> bool:
    return any(value is _NOT_PLAIN for value in values)


def _set_value(layer: Any, name: str, value: Any) -> None:
    held = vars(layer).get(name)
    if _is_alike(held, value):
        held[...] = value  # others may hold the same array
    elif isinstance(held, deque):
        held.clear()
        held.extend(copied(list(value)))
    else:
        vars(layer)[name] = copied(value)


def _is_alike(a: Any, b: Any) -> bool:
    arrays = isinstance(a, np.ndarray) and isinstance(b, np.ndarray)
    return arrays and (a.shape, a.dtype) == (b.shape, b.dtype)
