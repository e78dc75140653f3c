"""The agents that can be compared.

A new agent is a class in this module or another one of this folder, and a line in `_makers`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Protocol

from textenv.algos.compare.arena import Arena
from textenv.algos.compare.clock import Watch
from textenv.algos.compare.results import Run
from textenv.algos.control.random_policy import RandomPolicy
from textenv.algos.episodes.environments import make_training_env
from textenv.algos.rollouts.runner import RolloutRunner
from textenv.errors import ConfigError, unknown


class Contestant(Protocol):
    """An agent with its settings, before it is trained."""

    name: str
    language: bool
    """Whether its policy writes text."""
    description: str
    settings: dict[str, Any]

    def train(self, seed: int, total_timesteps: int, watch: Watch) -> Run:
        """Train from a seed; calls the watch before the first update and after each update."""
        ...

    @property
    def warm_up_timesteps(self) -> int:
        """Transitions that the first update needs."""
        ...


class NativePPO:
    """This package's PPO on control, with the environment's preset.

    Args:
        arena: an arena of control.
    """

    name = "ppo"
    language = False

    def __init__(self, arena: Arena):
        from textenv.algos.ppo_config import preset
        from textenv.algos.trainers.ppo import PPOTrainer

        self._arena = arena
        self._config = preset(arena.env)
        self.settings = asdict(self._config)
        trainer = PPOTrainer("mlp", arena.env, self._config, env_kwargs=arena.env_kwargs)
        self.description = trainer.describe()
        trainer.close()

    @property
    def warm_up_timesteps(self) -> int:
        """The transitions of one rollout."""
        return self._config.n_steps

    def train(self, seed: int, total_timesteps: int, watch: Watch) -> Run:
        """Train PPO from a seed."""
        from textenv.algos.trainers.ppo import PPOTrainer

        trainer = PPOTrainer(
            "mlp",
            self._arena.env,
            replace(self._config, seed=seed, total_timesteps=total_timesteps),
            env_kwargs=self._arena.env_kwargs,
            on_step=lambda metrics, rollout: watch(trainer.num_timesteps, trainer.policy),
        )
        watch(0, trainer.policy)
        history = trainer.train()
        parts = {
            part: sum(metrics[f"time/{part}"] for metrics in history)
            for part in ("environment", "policy", "update")
        }
        run = watch.finish(self.name, seed, trainer.num_timesteps, trainer.policy, parts)
        trainer.close()
        return run


class RandomContestant:
    """Acts at random, in rollouts of the same size as PPO's.

    Args:
        arena: the arena that it acts in.
    """

    name = "random"
    language = False

    def __init__(self, arena: Arena):
        from textenv.algos.ppo_config import preset

        self._arena = arena
        config = preset(arena.env)
        self._num_envs, self._n_steps = config.num_envs, config.n_steps
        self.settings: dict[str, Any] = {"num_envs": self._num_envs, "n_steps": self._n_steps}
        arena.make().close()  # raises an error if something is missing
        self.description = f"actions at random, in {self._num_envs} environment(s)"

    @property
    def warm_up_timesteps(self) -> int:
        """The transitions of one rollout."""
        return self._n_steps

    def train(self, seed: int, total_timesteps: int, watch: Watch) -> Run:
        """Act at random, without learning."""
        env = make_training_env(self._arena.make, None, self._num_envs)
        several = self._num_envs > 1
        space = env.single_action_space if several else env.action_space
        policy = RandomPolicy(space, seed, self._num_envs if several else None)
        playing = RandomPolicy(space, seed)
        runner = RolloutRunner(env, policy, max_steps=self._n_steps, seed=seed)
        watch(0, playing)
        steps = 0
        while steps < total_timesteps:
            steps += runner.collect().num_transitions
            watch(steps, playing)
        run = watch.finish(self.name, seed, steps, playing, runner.seconds)
        runner.close()
        return run


def create(names: Sequence[str], arena: Arena) -> list[Callable[[], Contestant]]:
    """Functions that make the named agents, in the order of the names.

    Raises:
        ConfigError: if there are no names, a name is given twice, or one is not known.
    """
    makers = _makers(arena)
    if not names:
        raise ConfigError(f"no agents are named; known: {', '.join(makers)}")
    for name in names:
        if name == "grpo" and name not in makers:
            raise ConfigError(f"agent 'grpo' trains a language model, and {arena.env} is not text")
        if name not in makers:
            raise ConfigError(unknown("agent", name, makers))
        if list(names).count(name) > 1:
            raise ConfigError(f"agent {name!r} is named twice")
    return [makers[name] for name in names]


def _makers(arena: Arena) -> dict[str, Callable[[], Contestant]]:
    from textenv.algos.compare.sb3_agents import ALGORITHMS, SB3Contestant

    makers: dict[str, Callable[[], Contestant]]
    if arena.is_text:
        from textenv.algos.compare.text_agents import GRPOContestant, TextPPO

        makers = {"grpo": lambda: GRPOContestant(arena), "ppo": lambda: TextPPO(arena)}
    else:
        makers = {"ppo": lambda: NativePPO(arena)}
    makers["random"] = lambda: RandomContestant(arena)
    for algorithm, what in ALGORITHMS.items():
        makers[f"sb3:{algorithm}"] = partial(SB3Contestant, algorithm, arena)
        if what.on_policy:
            makers[f"sb3-learn:{algorithm}"] = partial(SB3Contestant, algorithm, arena, True)
    return makers
