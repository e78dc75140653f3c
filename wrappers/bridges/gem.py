"""Plays the environments of gem as tasks, and lets gem make environments of this package.

    import gem
    import gymnasium
    from textenv.wrappers.bridges.gem import GemTask

    env = gymnasium.make("textenv:TextGen-v0", task=GemTask("game:GuessTheNumber-v0-easy"))

    gem.register("countdown", "textenv.wrappers.bridges.gem:GemEnv", task="countdown")
    env = gem.make("countdown")

This was written for gem-llm 0.1.0.
"""

from __future__ import annotations

from typing import Any

import gymnasium

from textenv.errors import ConfigError, MissingDependencyError, unknown
from textenv.tasks.base import Episode, Example, Task, Turn, check_split, draw_seed
from textenv.tasks.libraries.contained import Contained
from textenv.wrappers.text import require_text

try:
    import gem
    from gem.envs.registration import ENV_REGISTRY
    from gem.utils.constants import TERMINAL_STATE
except ModuleNotFoundError as error:
    if error.name != "gem":
        raise
    raise MissingDependencyError("gem-llm", extra="gem", purpose=__name__) from error

_NO_LIMIT = 1000  # maximum number of actions in an environment that names no limit
_ONE_TURN = ("code_env", "math_env", "math_visual_env", "qa_env", "reasoning_gym")
# What an environment raises whose data is not on this machine, or which refuses its arguments.
_REFUSALS = (AssertionError, ImportError, LookupError, OSError, TypeError, ValueError)


class GemTask(Task):
    """An environment of gem as a task; an example's id is the seed of everything drawn in it.

    The transcript is what gem's wrapper ``concat_with_action`` shows, with the hint of each turn
    kept. The rewards are the environment's own, one for each action. The splits have different
    seeds, but two seeds may give the same game.

    Args:
        env_id: gem's name of the environment, as ``gem.print_envs()`` lists them.
        split: ``"train"`` or ``"test"``.
        **kwargs: arguments for ``gem.make``.

    Raises:
        ConfigError: for an unknown name or split, or an environment that cannot be made here.
    """

    def __init__(self, env_id: str, split: str = "train", **kwargs: Any):
        if env_id not in ENV_REGISTRY:
            raise ConfigError(unknown("environment of gem", env_id, ENV_REGISTRY))
        check_split(split)
        self.name, self.split = f"gem:{env_id}", split
        self._env_id, self._kwargs = env_id, kwargs
        made_by = ENV_REGISTRY[env_id]
        limit = (made_by.kwargs | kwargs).get("max_turns")
        one = isinstance(made_by.entry_point, str) and made_by.entry_point.startswith(
            tuple(f"gem.envs.{module}:" for module in _ONE_TURN)
        )
        self.max_turns = limit or (1 if one else _NO_LIMIT)
        self._begun(0).close()

    def example(self, example_id: int) -> Example:
        """The seed and the first observation of the episode with this id."""
        seed = draw_seed(example_id, self.split)
        episode = self._begun(seed)
        episode.close()
        return {"prompt": episode.first, "seed": seed}

    def begin(self, example: Example) -> Episode:
        """Start the environment from the example's seed."""
        return self._begun(example["seed"])

    def _begun(self, seed: int) -> _GemEpisode:
        try:
            return _GemEpisode(self._env_id, self._kwargs, seed)
        except _REFUSALS as error:
            # nltk draws a frame around what it says
            said = str(error).strip("* \n").partition("\n")[0]
            raise ConfigError(
                f"{self.name} cannot be made here with {self._kwargs}: "
                f"{type(error).__name__}: {said}"
            ) from error


class _GemEpisode(Episode):
    """The episode of an environment of gem, with the random states with which it continues."""

    def __init__(self, env_id: str, kwargs: dict[str, Any], seed: int):
        self._contained = Contained(seed)
        with self._contained.inside():
            self._env = gem.make(env_id, **kwargs)
            observation, info = self._env.reset(seed=seed)
        self.first = _shown(observation, info)

    def step(self, action: str) -> Turn:
        """Take an action; the turn has the environment's reply and its reward."""
        with self._contained.inside():
            observation, reward, terminated, truncated, info = self._env.step(action)
        over = terminated or truncated
        said = "" if observation == TERMINAL_STATE else "\n" + _shown(observation, info, over)
        return Turn(said, float(reward), over)

    def close(self) -> None:
        """Close the environment, if it can be closed: some hold a process."""
        if hasattr(self._env, "close"):
            self._env.close()


def _shown(observation: str, info: dict[str, Any], over: bool = False) -> str:
    """An observation between the prefix and the suffix that gem's wrapper puts around it."""
    parts = [info.get("prefix", ""), observation, "" if over else info.get("suffix", "")]
    return "".join(part if part.endswith("\n") else part + "\n" for part in parts if part)


class GemEnv(gem.Env):
    """A text environment of this package as one of gem's.

    As in gem, an observation is the newest text alone: the prompt, and then the reply to each
    action. gem's observation wrappers make a transcript of them.

    Args:
        env: the environment's id, or the environment.
        seed: seed of the first reset, if that has none; ``gem.make_vec`` gives each environment
            its own.
        **kwargs: arguments for ``gymnasium.make``.

    Raises:
        ConfigTypeError: if the environment's observation or action is not text.
    """

    def __init__(
        self,
        env: str | gymnasium.Env = "textenv:TextGen-v0",
        seed: int | None = None,
        **kwargs: Any,
    ):
        self.env = gymnasium.make(env, **kwargs) if isinstance(env, str) else env
        for what in ("observation", "action"):
            require_text(self.env, "GemEnv", what)
        self._seed = seed

    def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        """Start an episode; gem's global seeds stay as they are."""
        seed, self._seed = self._seed if seed is None else seed, None
        return self.env.reset(seed=seed)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take an action; the observation is the reply, or gem's mark of the end without one."""
        _, reward, terminated, truncated, info = self.env.step(action)
        said = info.get("turn", "")
        return said or TERMINAL_STATE, float(reward), terminated, truncated, info

    def close(self) -> None:
        """Close the environment."""
        self.env.close()
