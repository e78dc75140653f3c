"""PPO's update on control, against torch's and Stable-Baselines3's on the same data."""

import dataclasses

import gymnasium as gym
import numpy as np
import pytest

from tests.algos.control_envs import Bandit, choices, quick
from textenv.algos.ppo import minibatches
from textenv.algos.rollouts.runner import RolloutRunner
from textenv.algos.trainers.ppo import PPOTrainer
from textenv.algos.trainers.ppo_control import ControlUpdater, control_batch
from textenv.errors import DataError


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


@pytest.mark.filterwarnings("ignore:.*(overflow|invalid value).*:RuntimeWarning")
def test_with_a_guard_such_an_update_is_skipped_and_counted():
    from textenv.algos.training.guard import MOST_SKIPPED, NotFiniteError, StepGuard

    env = Bandit()
    learner = ControlUpdater(env, quick())
    learner.guard = StepGuard()
    before = learner.policy.fingerprint()
    rollout = RolloutRunner(env, learner.policy, max_steps=256).collect()
    rollout.trajectories[0].rewards[0] = np.inf
    for _ in range(MOST_SKIPPED - 1):
        metrics = learner.update(rollout, 1.0)
        assert metrics["train/n_updates"] == 0 and metrics["skipped_steps"] > 0
    with pytest.raises(NotFiniteError, match="lower learning_rate") as ended:
        learner.update(rollout, 1.0)
    assert ended.value.batch.trajectories == rollout.trajectories
    assert learner.policy.fingerprint() == before


def test_a_rollout_without_a_critic_is_refused():
    env = gym.make("CartPole-v1")
    learner = ControlUpdater(env, quick())
    rollout = RolloutRunner(env, lambda observation: (0, {}), max_steps=64).collect()
    with pytest.raises(DataError, match="its policy has no critic"):
        learner.update(rollout, 1.0)


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
