"""Settings of PPO that are known to work, by environment, and three sizes of rollout.

The figures for control are those of RL Baselines3 Zoo's ``hyperparams/ppo.yml`` (Pendulum without
its gSDE); ``n_steps`` here is theirs times the number of environments. Those for text were found
with tiny-lm on arithmetic; a large model wants a smaller ``learning_rate``
(`textenv.algos.training.trainer.default_learning_rate`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from textenv.algos.ppo import PPOConfig
from textenv.errors import ConfigError, unknown

PRESETS: dict[str, PPOConfig] = {
    "CartPole-v1": PPOConfig(
        total_timesteps=100_000,
        num_envs=8,
        n_steps=8 * 32,
        batch_size=256,
        n_epochs=20,
        gamma=0.98,
        gae_lambda=0.8,
        learning_rate=1e-3,
        anneal_learning_rate=True,
        anneal_clip_range=True,
    ),
    "Acrobot-v1": PPOConfig(
        total_timesteps=1_000_000,
        num_envs=16,
        n_steps=16 * 256,
        n_epochs=4,
        gae_lambda=0.94,
        normalize_observations=True,
        normalize_rewards=True,
    ),
    "MountainCar-v0": PPOConfig(
        total_timesteps=1_000_000,
        num_envs=16,
        n_steps=16 * 16,
        n_epochs=4,
        gae_lambda=0.98,
        normalize_observations=True,
        normalize_rewards=True,
    ),
    "Pendulum-v1": PPOConfig(
        total_timesteps=100_000,
        num_envs=4,
        n_steps=4 * 1024,
        gamma=0.9,
        learning_rate=1e-3,
    ),
    "LunarLander-v3": PPOConfig(
        total_timesteps=1_000_000,
        num_envs=16,
        n_steps=16 * 1024,
        n_epochs=4,
        gamma=0.999,
        gae_lambda=0.98,
        ent_coef=0.01,
    ),
    "TextGen-v0": PPOConfig(
        total_timesteps=40 * 512,
        n_steps=512,
        batch_size=256,
        n_epochs=2,
        gamma=1.0,
        gae_lambda=1.0,
        learning_rate=1e-3,
        anneal_learning_rate=True,
        max_grad_norm=1.0,
    ),
}


class Size(NamedTuple):
    """A size of rollout, and what it does."""

    n_steps: int
    gained: str
    lost: str


SIZES: dict[str, Size] = {
    "fast": Size(1024, "updates twice as often as standard", "noisier: less stable"),
    "standard": Size(2048, "a good compromise", "nothing in particular"),
    "stable": Size(4096, "steadier gradients and advantages", "slow to the first update"),
}


def preset(env_id: str | None = None, size: str | None = None) -> PPOConfig:
    """The settings for an environment; the defaults where it has none of its own.

    Args:
        env_id: Gymnasium's id, with or without the ``module:`` that registers it.
        size: one of `SIZES`; None keeps the environment's own.

    Raises:
        ConfigError: for an unknown size.
    """
    config = PRESETS.get((env_id or "").rpartition(":")[2], PPOConfig())
    if size is None:
        return config
    if size not in SIZES:
        raise ConfigError(unknown("size", size, SIZES))
    return replace(config, n_steps=SIZES[size].n_steps)
