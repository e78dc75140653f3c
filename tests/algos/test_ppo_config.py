"""Settings of PPO: Stable-Baselines3's defaults, presets, and what is refused."""

import pytest

from textenv.algos.ppo_config import PRESETS, SIZES, PPOConfig, preset
from textenv.algos.trainers.ppo import PPOTrainer
from textenv.errors import ConfigError, ConfigTypeError


def test_defaults_are_those_of_sb3():
    sb3 = pytest.importorskip("stable_baselines3")
    import inspect

    theirs = inspect.signature(sb3.PPO.__init__).parameters
    ours = PPOConfig()
    names = (
        *("n_steps", "batch_size", "n_epochs", "learning_rate", "gamma", "gae_lambda"),
        *("clip_range", "clip_range_vf", "normalize_advantage", "ent_coef", "vf_coef"),
        *("max_grad_norm", "target_kl"),
    )
    assert {n: getattr(ours, n) for n in names} == {n: theirs[n].default for n in names}


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"n_steps": 2048, "num_envs": 6}, ConfigError, "n_steps=2048 .*num_envs=6"),
        ({"gamma": 1.5}, ConfigError, "gamma must be at least 0 and at most 1, got 1.5"),
        ({"n_epochs": 0}, ConfigError, "n_epochs must be at least 1, got 0"),
        ({"batch_size": 2.5}, ConfigTypeError, "batch_size must be int, got 2.5"),
        ({"activation": "gelu"}, ConfigError, "unknown activation 'gelu'.*tanh, relu"),
        ({"learning_rate": -1.0}, ConfigError, "learning_rate must be at least 0"),
        ({"hidden": ()}, ConfigError, "hidden must name the units"),
    ],
)
def test_settings_that_cannot_be(settings, error, said):
    with pytest.raises(error, match=said):
        PPOTrainer("mlp", env="CartPole-v1", config=PPOConfig(**settings))


def test_presets_and_sizes():
    assert preset("CartPole-v1") == PRESETS["CartPole-v1"] == preset("textenv:CartPole-v1")
    assert preset("Unknown-v0") == preset() == PPOConfig()
    assert {name: size.n_steps for name, size in SIZES.items()} == {
        "fast": 1024,
        "standard": 2048,
        "stable": 4096,
    }
    assert preset("Pendulum-v1", "fast").n_steps == 1024
    assert preset("Pendulum-v1", "fast").gamma == preset("Pendulum-v1").gamma
    with pytest.raises(ConfigError, match=r"unknown size 'huge'.*fast, standard, stable"):
        preset(None, "huge")
