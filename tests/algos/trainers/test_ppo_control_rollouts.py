"""What PPO on control collects, records and exports."""

import json

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from tests.algos.control_envs import Bandit, Steps, quick
from textenv.algos import Buffer, PPOConfig, load_rollout
from textenv.algos.control.mlp_policy import MLPPolicy
from textenv.algos.rollouts.runner import RolloutRunner
from textenv.algos.trainers.ppo import PPOTrainer
from textenv.algos.trainers.ppo_control import ControlUpdater
from textenv.errors import ConfigError


@pytest.mark.parametrize("num_envs", [1, 4])
def test_a_rollout_is_n_steps_in_all_shared_evenly(num_envs):
    rollouts = []
    trainer = PPOTrainer(
        "mlp",
        env="CartPole-v1",
        config=quick(num_envs=num_envs, total_timesteps=512),
        on_step=lambda metrics, rollout: rollouts.append(rollout),
    )
    trainer.train()
    assert [r.num_transitions for r in rollouts] == [256, 256]
    for rollout in rollouts:
        shares = dict.fromkeys(range(num_envs), 0)
        for trajectory in rollout:
            shares[trajectory.env_index] += len(trajectory)
        assert set(shares.values()) == {256 // num_envs}
    # What one rollout cut goes on in the next.
    for env in range(num_envs):
        cut = [t for t in rollouts[0] if t.env_index == env][-1]
        rest = next(t for t in rollouts[1] if t.env_index == env)
        if not (cut.terminated or cut.truncated):
            np.testing.assert_array_equal(cut.final_observation, rest.observations[0])


def test_last_values_are_the_critics_of_the_last_observation():
    env = gym.make("CartPole-v1", max_episode_steps=9)
    policy = MLPPolicy(env.observation_space, env.action_space, (8,), seed=4)
    rollout = RolloutRunner(env, policy, max_steps=100).collect()
    assert any(t.truncated for t in rollout)
    for trajectory in rollout:
        if trajectory.terminated:
            assert trajectory.last_value is None
        else:
            value = policy.values([trajectory.final_observation])[0]
            assert trajectory.last_value == pytest.approx(value, rel=1e-5)


def test_an_environment_or_a_function_that_makes_one():
    for env, num_envs in ((gym.make("CartPole-v1"), 1), (lambda: gym.make("CartPole-v1"), 2)):
        trainer = PPOTrainer("mlp", env=env, config=quick(total_timesteps=256, num_envs=num_envs))
        assert len(trainer.train()) == 1
    with pytest.raises(ConfigError, match="num_envs=2 copies need an id or a function"):
        PPOTrainer("mlp", env=gym.make("CartPole-v1"), config=quick(num_envs=2))
    vector = gym.make_vec("CartPole-v1", num_envs=3)
    with pytest.raises(ConfigError, match="num_envs=2, and the environment has 3"):
        PPOTrainer("mlp", env=vector, config=quick(num_envs=2))
    with pytest.raises(ConfigError, match="max_steps=256 must be divisible by num_envs=3"):
        PPOTrainer("mlp", env=vector, config=quick())


def test_seeds_reproduce():
    def run(seed):
        config = quick(total_timesteps=512, num_envs=2, seed=seed)
        trainer = PPOTrainer("mlp", env="CartPole-v1", config=config)
        trainer.train()
        return trainer.policy.fingerprint()

    assert run(3) == run(3) != run(4)


def test_each_rollout_is_exported_with_its_policy(tmp_path):
    hashes, rollouts = [], []

    def on_step(metrics, rollout):
        rollouts.append(rollout)
        hashes.append(trainer.policy.fingerprint())

    config = quick(total_timesteps=768, num_envs=2, gamma=0.9, gae_lambda=0.8, seed=11)
    trainer = PPOTrainer(
        "mlp", env="CartPole-v1", config=config, on_step=on_step, export_to=tmp_path
    )
    first = trainer.policy.fingerprint()
    trainer.train()
    files = sorted(tmp_path.iterdir())
    assert [f.name.split("_")[1] for f in files] == ["0", "1", "2"]
    loaded = [load_rollout(f) for f in files]
    assert loaded == rollouts
    assert [r.source.policy_hash for r in loaded] == [first, *hashes[:-1]]
    assert [r.source.policy_version for r in loaded] == [0, 16, 32]
    source = loaded[0].source
    assert (source.env_id, source.num_envs, source.seed) == ("CartPole-v1", 2, 11)
    assert (source.gamma, source.gae_lambda) == (0.9, 0.8)
    header = json.loads(files[0].read_text())
    assert header["format"] == "textenv.rollout"


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=str)
def test_the_scale_of_the_rewards_is_that_of_each_environments_own_returns(mode):
    """Episodes of 2, 7 and 1 steps, which rollouts cut, against the plain loop of each."""
    lengths, gamma = [2, 7, 1], 0.9
    env = SyncVectorEnv([lambda n=n: Steps(n, masked=True) for n in lengths], autoreset_mode=mode)
    config = quick(n_steps=12, batch_size=12, n_epochs=1, gamma=gamma, normalize_rewards=True)
    learner = ControlUpdater(env, config)
    runner = RolloutRunner(env, learner.policy, max_steps=12)
    steps, totals = [0, 0, 0], []
    for _ in range(9):
        rollout = runner.collect()
        for lane, n in enumerate(lengths):
            for _ in range(sum(len(t) for t in rollout if t.env_index == lane)):
                done = steps[lane] % n + 1  # steps of this episode so far
                totals.append((1 - gamma**done) / (1 - gamma))
                steps[lane] += 1
        learner.update(rollout, 1.0)
        assert learner.policy.reward_scale == pytest.approx(np.std(totals), rel=1e-6)


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=str)
def test_a_mask_that_is_changed_in_place_is_recorded_as_it_was(mode):
    """Before the first step of the optimizer, new and old log-probabilities agree."""
    env = SyncVectorEnv(
        [lambda: Steps(4, masked=True, own=True) for _ in range(2)], autoreset_mode=mode
    )
    learner = ControlUpdater(env, quick(n_steps=32, batch_size=32, n_epochs=1))
    metrics = learner.update(RolloutRunner(env, learner.policy, max_steps=32).collect(), 1.0)
    assert metrics["train/approx_kl"] == pytest.approx(0, abs=1e-6)


def test_the_seconds_of_a_step_are_told_apart(tmp_path, monkeypatch, clock):
    """On a clock that each phase moves by an amount of its own."""

    def takes(seconds, function):
        def timed(*args, **kwargs):
            clock(seconds)
            return function(*args, **kwargs)

        return timed

    monkeypatch.setattr(Bandit, "step", takes(0.5, Bandit.step))
    monkeypatch.setattr(MLPPolicy, "__call__", takes(0.25, MLPPolicy.__call__))
    monkeypatch.setattr(Buffer, "save", takes(70, Buffer.save))
    monkeypatch.setattr(ControlUpdater, "update", takes(900, ControlUpdater.update))
    config = PPOConfig(total_timesteps=16, n_steps=8, batch_size=8, n_epochs=1)
    trainer = PPOTrainer("mlp", Bandit(), config, export_to=tmp_path)
    step = 8 * 0.75 + 70 + 900
    for number, metrics in enumerate(trainer.train(), 1):
        phases = [metrics[f"time/{name}"] for name in ("rollout", "export", "update")]
        assert phases == [8 * 0.75, 70, 900]
        assert metrics["time/environment"] == 8 * 0.5 and metrics["time/policy"] == 8 * 0.25
        assert metrics["step_time"] == step and metrics["time/time_elapsed"] == number * step
        assert metrics["time/fps"] == 8 / step


class OddInfos(Bandit):
    """Infos that JSON cannot hold, with keys that are not text."""

    def step(self, action):
        *values, _ = super().step(action)
        return *values, {"best": np.inf, 3: {4: object}}


@pytest.mark.parametrize("num_envs", [1, 2])
def test_infos_do_not_keep_a_rollout_from_being_exported(num_envs, tmp_path):
    config = quick(total_timesteps=256, num_envs=num_envs)
    PPOTrainer("mlp", env=OddInfos, config=config, export_to=tmp_path).train()
    [file] = tmp_path.iterdir()
    info = {"best": "<inf>", "<3>": {"<4>": "<class 'object'>"}}
    assert all(found == info for t in load_rollout(file) for found in t.infos)
