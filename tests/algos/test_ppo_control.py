"""PPO on control: its update against torch's on the same data, and what it learns."""

import dataclasses
import json

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from tests.algos.control_envs import Bandit, Steps, choices, quick
from textenv.algos import Buffer, PPOConfig, load_rollout
from textenv.algos.control.mlp_policy import MLPPolicy
from textenv.algos.ppo import PPOTrainer, minibatches
from textenv.algos.ppo_control import ControlUpdater, control_batch
from textenv.algos.rollouts.runner import RolloutRunner
from textenv.errors import ConfigError, DataError, MissingFileError

# --- the update ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ent_coef": 0.1, "vf_coef": 0.7, "clip_range_vf": 0.2},
        {"normalize_advantage": False, "max_grad_norm": 0.0, "clip_range": 0.05},
    ],
)
@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1", "several choices"])
def test_weights_after_an_update_are_those_of_torch(env, settings):
    """The loss as Stable-Baselines3 writes it, torch's Adam and gradient clipping."""
    torch = pytest.importorskip("torch")
    config = quick(hidden=(8, 8), learning_rate=3e-3, **settings)
    env = choices() if env == "several choices" else gym.make(env)
    learner = ControlUpdater(env, config)
    rollout = RolloutRunner(env, learner.policy, max_steps=256).collect()
    batch = control_batch(rollout, learner.policy, config)
    weights = {
        name: torch.tensor(value, requires_grad=True)
        for name, value in learner.policy.weights.items()
    }
    names = list(weights)
    adam = torch.optim.Adam(weights.values(), lr=config.learning_rate, eps=1e-5)
    columns = [batch.observations, batch.actions, batch.logprobs, batch.advantages]
    columns += [batch.values, batch.returns]
    data = [torch.tensor(np.asarray(c)) for c in columns]
    for rows in minibatches(config, 256, np.random.default_rng((config.seed, 1))):
        observations, actions, old, advantages, old_values, returns = (c[rows] for c in data)
        x = observations[None]
        for layer in range(2):
            x = x @ weights[f"hidden.{layer}.weight"] + weights[f"hidden.{layer}.bias"]
            x = torch.tanh(x)
        outputs = x[0] @ weights["actor.weight"] + weights["actor.bias"]
        values = (x[1] @ weights["critic.weight"] + weights["critic.bias"])[:, 0]
        if "log_std" in weights:
            normal = torch.distributions.Normal(outputs, weights["log_std"].exp())
            logprobs, entropy = normal.log_prob(actions).sum(1), normal.entropy().sum(1)
        else:
            parts = outputs.split([3, 2], dim=1) if actions.shape[1] == 2 else [outputs]
            heads = [torch.distributions.Categorical(logits=part) for part in parts]
            logprobs = sum(head.log_prob(actions[:, k]) for k, head in enumerate(heads))
            entropy = sum(head.entropy() for head in heads)
        advantages = advantages.float()
        if config.normalize_advantage:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        ratio = torch.exp(logprobs - old)
        clip = config.clip_range
        surrogate = -torch.min(
            advantages * ratio, advantages * torch.clamp(ratio, 1 - clip, 1 + clip)
        ).mean()
        if config.clip_range_vf is not None:
            bound = config.clip_range_vf
            values = old_values.float() + torch.clamp(values - old_values.float(), -bound, bound)
        error = torch.nn.functional.mse_loss(returns.float(), values)
        loss = surrogate - config.ent_coef * entropy.mean() + config.vf_coef * error
        adam.zero_grad()
        loss.backward()
        if config.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(weights.values(), config.max_grad_norm)
        adam.step()
    metrics = learner.update(rollout, 1.0)
    assert metrics["train/n_updates"] == 16
    for name in names:
        np.testing.assert_allclose(
            learner.policy.weights[name], weights[name].detach().numpy(), atol=1e-5, err_msg=name
        )


@pytest.mark.parametrize(
    ("env_id", "target_kl"),
    [("CartPole-v1", None), ("Pendulum-v1", None), ("CartPole-v1", 2e-4), ("CartPole-v1", 2e-3)],
)
def test_an_update_is_that_of_sb3s_own_agent(env_id, target_kl):
    """Our weights and our rollout in SB3's policy and buffer; then its train() against ours.

    Whole-batch epochs, so that the order of the shuffled rows does not matter.
    """
    torch = pytest.importorskip("torch")
    sb3 = pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.logger import Logger

    size, settings = 256, {"n_epochs": 4, "learning_rate": 3e-3, "ent_coef": 0.02}
    config = quick(hidden=(8, 8), n_steps=size, batch_size=size, clip_range_vf=0.3, **settings)
    config = dataclasses.replace(config, target_kl=target_kl)
    env = gym.make(env_id)
    learner = ControlUpdater(env, config)
    rollout = RolloutRunner(env, learner.policy, max_steps=size).collect()
    kwargs = {"net_arch": [8, 8], "activation_fn": torch.nn.Tanh}
    agent = sb3.PPO(
        *("MlpPolicy", env_id, settings["learning_rate"], size, size),
        **{k: v for k, v in settings.items() if k != "learning_rate"},
        **{"clip_range_vf": 0.3, "policy_kwargs": kwargs, "device": "cpu", "target_kl": target_kl},
    )
    agent.set_logger(Logger(None, []))
    names = {}  # SB3's -> the name and the slice of ours
    for i, network in enumerate(("policy_net", "value_net")):
        for layer in range(2):
            name = f"mlp_extractor.{network}.{2 * layer}"
            names[f"{name}.weight"] = (f"hidden.{layer}.weight", lambda w, i=i: w[i].T)
            names[f"{name}.bias"] = (f"hidden.{layer}.bias", lambda w, i=i: w[i, 0])
    for theirs, ours in (("action_net", "actor"), ("value_net", "critic")):
        names[f"{theirs}.weight"] = (f"{ours}.weight", lambda w: w.T)
        names[f"{theirs}.bias"] = (f"{ours}.bias", lambda w: w)
    if "log_std" in learner.policy.weights:
        names["log_std"] = ("log_std", lambda w: w)
    assert agent.policy.state_dict().keys() == names.keys()

    def as_theirs():
        weights = learner.policy.weights
        return {k: torch.tensor(np.array(cut(weights[n]))) for k, (n, cut) in names.items()}

    before = as_theirs()
    agent.policy.load_state_dict(before)
    buffer = agent.rollout_buffer
    for trajectory in rollout:
        actions = trajectory.unclipped_actions or trajectory.actions
        for t, observation in enumerate(trajectory.observations):
            reward = trajectory.rewards[t]
            if trajectory.truncated and t == len(trajectory) - 1:
                reward += config.gamma * trajectory.last_value
            buffer.add(
                observation[None],
                np.reshape(actions[t], (1, -1)),
                np.array([reward]),
                np.array([t == 0]),
                torch.tensor([trajectory.values[t]]),
                torch.tensor([trajectory.logprobs[t]]),
            )
    last = rollout.trajectories[-1]
    ended = last.terminated or last.truncated
    buffer.compute_returns_and_advantage(torch.tensor([last.last_value or 0.0]), np.array([ended]))
    agent.train()
    metrics = learner.update(rollout, 1.0)
    shown = agent.logger.name_to_value
    for name in (
        "approx_kl",
        "clip_fraction",
        "entropy_loss",
        "policy_gradient_loss",
        "value_loss",
    ):
        expected = float(shown[f"train/{name}"])
        assert metrics[f"train/{name}"] == pytest.approx(expected, rel=1e-3, abs=1e-6), name
    assert metrics["train/explained_variance"] == pytest.approx(
        float(shown["train/explained_variance"]), abs=1e-5
    )
    trained = agent.policy.state_dict()
    for name, expected in as_theirs().items():
        np.testing.assert_allclose(trained[name].numpy(), expected.numpy(), atol=1e-5)
        moved = np.abs(before[name].numpy() - expected.numpy()).max()
        assert moved > 5e-5, f"{name} moved by {moved}: less than what the tolerance forgives"


def test_the_first_minibatch_sees_a_ratio_of_one():
    env = gym.make("CartPole-v1")
    learner = ControlUpdater(env, quick(n_epochs=1, batch_size=256, normalize_observations=True))
    runner = RolloutRunner(env, learner.policy, max_steps=256)
    for _ in range(3):  # statistics have moved since
        metrics = learner.update(runner.collect(), 1.0)
        assert abs(metrics["train/approx_kl"]) < 1e-6
        assert metrics["train/clip_fraction"] == 0


def test_target_kl_ends_the_passes_before_the_step_that_would_go_too_far():
    env = gym.make("CartPole-v1")
    config = quick(learning_rate=0.01, target_kl=1e-7)
    learner = ControlUpdater(env, config)
    rollout = RolloutRunner(env, learner.policy, max_steps=256).collect()
    assert learner.update(rollout, 1.0)["train/n_updates"] == 1
    free = ControlUpdater(env, quick(learning_rate=0.01, target_kl=100.0))
    assert free.update(rollout, 1.0)["train/n_updates"] == 16


def test_annealing_reaches_zero():
    trainer = PPOTrainer(
        "mlp",
        env="CartPole-v1",
        config=quick(total_timesteps=1024, anneal_learning_rate=True, anneal_clip_range=True),
    )
    history = trainer.train()
    rates = [row["train/learning_rate"] / trainer.config.learning_rate for row in history]
    np.testing.assert_allclose(rates, [0.75, 0.5, 0.25, 0])
    np.testing.assert_allclose([row["train/clip_range"] for row in history], 0.2 * np.array(rates))


def test_max_steps_counts_optimizer_steps():
    trainer = PPOTrainer("mlp", env="CartPole-v1", config=quick(max_steps=19))
    history = trainer.train()
    assert [row["train/n_updates"] for row in history] == [16, 3]
    assert history[-1]["step"] == 19
    assert trainer._runner.policy_version == 19


@pytest.mark.filterwarnings("ignore:.*(overflow|invalid value).*:RuntimeWarning")
def test_a_loss_that_is_not_finite_leaves_the_weights():
    env = Bandit()
    learner = ControlUpdater(env, quick())
    before = learner.policy.fingerprint()
    rollout = RolloutRunner(env, learner.policy, max_steps=256).collect()
    rollout.trajectories[0].rewards[0] = np.inf  # a runner would refuse it
    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        learner.update(rollout, 1.0)
    assert learner.policy.fingerprint() == before
    good = RolloutRunner(Bandit(), learner.policy, max_steps=256).collect()
    assert np.isfinite(learner.update(good, 1.0)["train/value_loss"])


def test_a_rollout_without_a_critic_is_refused():
    env = gym.make("CartPole-v1")
    learner = ControlUpdater(env, quick())
    rollout = RolloutRunner(env, lambda observation: (0, {}), max_steps=64).collect()
    with pytest.raises(DataError, match="its policy has no critic"):
        learner.update(rollout, 1.0)


# --- what a rollout is ---------------------------------------------------------------------


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


# --- what it learns ------------------------------------------------------------------------


def test_normalised_rewards_are_clipped_as_they_are_scaled():
    """One reward far beyond ten deviations counts as ten; without normalisation as itself."""
    env = Bandit(reward=lambda action, observation, rng: 1.0)
    for normalize, most in ((True, 10.0), (False, 1e6)):
        learner = ControlUpdater(env, quick(normalize_rewards=normalize, gamma=0.0))
        rollout = RolloutRunner(env, learner.policy, max_steps=256).collect()
        rollout.trajectories[7].rewards[0] = 1e6
        learner.policy.reward_scale = 1.0
        returns = control_batch(rollout, learner.policy, learner.config).returns
        assert returns[7] == pytest.approx(most)
        np.testing.assert_allclose(np.delete(returns, 7), 1.0)


# --- export --------------------------------------------------------------------------------


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


# --- a saved policy is trained further ---------------------------------------------------------


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
