"""The agents that can be compared. A new one is a class here or beside, and a line in `create`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any, Protocol

from textenv.algos.compare.arena import Arena
from textenv.algos.compare.clock import Watch
from textenv.algos.compare.results import Run
from textenv.errors import ConfigError, unknown


class Contestant(Protocol):
    """An agent with its settings, before it is trained."""

    name: str
    description: str
    settings: dict[str, Any]

    def train(self, seed: int, total_timesteps: int, watch: Watch) -> Run:
        """Train from a seed, calling the watch before the first update and after each."""
        ...

    @property
    def warm_up_timesteps(self) -> int:
        """Transitions up to and with the first update."""
        ...


class NativePPO:
    """PPO in MLX, with the environment's preset.

    Args:
        arena: where it is trained.
    """

    name = "ppo"

    def __init__(self, arena: Arena):
        from textenv.algos.ppo import PPOTrainer
        from textenv.algos.ppo_presets import preset

        self._arena = arena
        self._config = preset(arena.env)
        self.settings = asdict(self._config)
        trainer = PPOTrainer("mlp", arena.env, self._config, env_kwargs=arena.env_kwargs)
        self.description = trainer.describe()
        trainer.close()

    @property
    def warm_up_timesteps(self) -> int:
        """One rollout."""
        return self._config.n_steps

    def train(self, seed: int, total_timesteps: int, watch: Watch) -> Run:
        """Train from a seed."""
        from textenv.algos.ppo import PPOTrainer

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


def create(names: Sequence[str], arena: Arena) -> list[Callable[[], Contestant]]:
    """Functions that make the agents named, in that order.

    Raises:
        ConfigError: for no names, a name twice, or one that is not known.
    """
    from textenv.algos.compare.sb3_agents import ALGORITHMS, SB3Contestant

    known = ["ppo", *(f"sb3:{name}" for name in ALGORITHMS)]
    if not names:
        raise ConfigError(f"no agents are named; known: {', '.join(known)}")
    for name in names:
        if name not in known:
            raise ConfigError(unknown("agent", name, known))
        if list(names).count(name) > 1:
            raise ConfigError(f"agent {name!r} is named twice")

    def maker(name: str) -> Callable[[], Contestant]:
        if name == "ppo":
            return lambda: NativePPO(arena)
        return lambda: SB3Contestant(name.removeprefix("sb3:"), arena)

    return [maker(name) for name in names]
