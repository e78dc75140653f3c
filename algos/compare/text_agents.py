"""Language models for a comparison, trained by GRPO and by PPO."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, replace
from typing import Any

from textenv.algos.compare.arena import Arena
from textenv.algos.compare.clock import Watch
from textenv.algos.compare.results import Run
from textenv.algos.episodes.trajectory import Buffer
from textenv.algos.ppo_config import preset
from textenv.algos.trainers.grpo import GRPOTrainer
from textenv.algos.trainers.ppo import PPOTrainer

_GENERATION = "stepping the environment is counted with the policy"


class GRPOContestant:
    """GRPO on a language model, with the default settings.

    Args:
        arena: an arena of text.
    """

    name = "grpo"
    language = True

    def __init__(self, arena: Arena):
        self._arena = arena
        trainer = GRPOTrainer(arena.model, arena.make_text())
        self._config = trainer.config
        self.settings: dict[str, Any] = {"model": arena.model} | asdict(self._config)
        self.description = f"{arena.model}, {trainer.describe()}; {_GENERATION}"

    @property
    def warm_up_timesteps(self) -> int:
        """The transitions of one rollout."""
        return self._config.completions

    def train(self, seed: int, total_timesteps: int, watch: Watch) -> Run:
        """Train from a seed until there are so many transitions."""
        steps = 0

        def on_step(metrics: dict[str, float], rollout: Buffer) -> None:
            nonlocal steps
            steps += rollout.num_transitions
            watch(steps, playing)
            if steps >= total_timesteps:
                raise _SpentError

        rollouts = -(-total_timesteps // self.warm_up_timesteps)  # more if a task has several turns
        trainer = GRPOTrainer(
            self._arena.model,
            self._arena.make_text(),
            replace(self._config, seed=seed, max_steps=rollouts),
            on_step=on_step,
        )
        playing = trainer.policy.with_params(seed=seed)
        watch(0, playing)
        with contextlib.suppress(_SpentError):
            trainer.train()
        parts = {
            "policy": sum(metrics["time/generate"] for metrics in trainer.history),
            "update": sum(metrics["time/update"] for metrics in trainer.history),
        }
        return watch.finish(self.name, seed, steps, playing, parts)


class TextPPO:
    """PPO on a language model, a decision for each token, with the preset for text.

    Args:
        arena: an arena of text.
    """

    name = "ppo"
    language = True

    def __init__(self, arena: Arena):
        self._arena = arena
        self._config = preset("TextGen-v0")
        self.settings: dict[str, Any] = {"model": arena.model} | asdict(self._config)
        trainer = PPOTrainer(arena.model, arena.make_text(), self._config)
        self.description = f"{arena.model}, {trainer.describe()}; {_GENERATION}"

    @property
    def warm_up_timesteps(self) -> int:
        """The transitions of one rollout."""
        return self._config.n_steps

    def train(self, seed: int, total_timesteps: int, watch: Watch) -> Run:
        """Train PPO from a seed."""
        trainer = PPOTrainer(
            self._arena.model,
            self._arena.make_text(),
            replace(self._config, seed=seed, total_timesteps=total_timesteps),
            on_step=lambda metrics, rollout: watch(trainer.num_timesteps, playing),
        )
        playing = trainer.policy.with_params(seed=seed)
        watch(0, playing)
        history = trainer.train()
        parts = {
            "policy": sum(metrics["time/rollout"] for metrics in history),
            "update": sum(metrics["time/update"] for metrics in history),
        }
        return watch.finish(self.name, seed, trainer.num_timesteps, playing, parts)


class _SpentError(Exception):
    """Raised when a run has had all of its transitions."""
