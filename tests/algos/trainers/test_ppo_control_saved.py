"""PPO on control trains a saved policy further."""

import pytest

from tests.algos.control_envs import quick
from textenv.algos import PPOConfig
from textenv.algos.trainers.ppo import PPOTrainer
from textenv.errors import ConfigError, MissingFileError


@pytest.fixture
def saved(tmp_path):
    """A policy whose networks and normalisation are not those of the default settings."""
    shape = {"hidden": (8, 8), "activation": "relu", "normalize_observations": True}
    config = quick(total_timesteps=256, seed=3, normalize_rewards=True, **shape)
    trainer = PPOTrainer("mlp", env="CartPole-v1", config=config)
    trainer.train()
    trainer.save(tmp_path / "model")
    return trainer.policy, tmp_path / "model"


@pytest.mark.parametrize("as_path", [True, False])
def test_a_saved_policy_is_trained_further(saved, as_path):
    policy, folder = saved
    # One step on the whole rollout: its ratios are all 1 only if the loss computes the very
    # networks that played.
    config = PPOConfig(total_timesteps=256, n_steps=256, batch_size=256, n_epochs=1)
    trainer = PPOTrainer(folder if as_path else str(folder), env="CartPole-v1", config=config)
    assert trainer.policy.fingerprint() == policy.fingerprint()
    assert trainer.config.hidden == (8, 8) and trainer.config.activation == "relu"
    metrics = trainer.train()[-1]
    assert abs(metrics["train/approx_kl"]) < 1e-6 and metrics["train/clip_fraction"] == 0
    assert trainer.policy.fingerprint() != policy.fingerprint()
    assert trainer.policy.stats.count == 512  # the statistics go on


@pytest.mark.parametrize("env", ["Acrobot-v1", "MountainCarContinuous-v0"])
def test_a_saved_policy_that_does_not_fit_the_environment(saved, env):
    said = r"made for observations Box.*\(4,\).*Discrete\(2\), and the environment has .*Box"
    with pytest.raises(ConfigError, match=said):
        PPOTrainer(saved[1], env=env, config=quick())


def test_a_folder_that_holds_no_policy(tmp_path):
    with pytest.raises(MissingFileError, match=r"holds no control policy: config.json is missing"):
        PPOTrainer(tmp_path, env="CartPole-v1", config=quick())
    with pytest.raises(ConfigError, match=r"'mlp'.*or the folder of a policy.*'nowhere'"):
        PPOTrainer("nowhere", env="CartPole-v1", config=quick())
