"""Agents of Stable-Baselines3 in a comparison are those of a user's own script."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest

from textenv.algos.cli import main
from textenv.algos.compare.arena import EVALUATION_SEED, Arena
from textenv.algos.compare.clock import Watch
from textenv.algos.compare.evaluators import EpisodeEvaluator
from textenv.algos.compare.loop import compare
from textenv.algos.ppo_config import PRESETS, PPOConfig
from textenv.algos.trainers.sb3 import SB3Trainer
from textenv.errors import ConfigError
from textenv.wrappers import CountFromZero
from textenv.wrappers.sb3 import SB3Policy, as_sb3_policy

sb3 = pytest.importorskip("stable_baselines3")
contrib = pytest.importorskip("sb3_contrib")
torch = pytest.importorskip("torch")

from stable_baselines3.common.env_util import make_vec_env  # noqa: E402
from stable_baselines3.common.vec_env import VecNormalize  # noqa: E402

from textenv.algos.compare.sb3_agents import SETTINGS, SB3Contestant, translate  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def arena(env="CartPole-v1", total=512, every=256, episodes=4):
    return Arena(env, {}, total, every, episodes)


def returns_by_predict(model, env_id, episodes, seen=lambda observation: observation):
    """The evaluation as a user of Stable-Baselines3 would write it."""
    env = gym.make(env_id)
    found = []
    for i in range(episodes):
        observation, _ = env.reset(seed=EVALUATION_SEED + i)
        total, over, state, start = 0.0, False, None, np.ones(1, bool)
        while not over:
            action, state = model.predict(seen(observation), state, start, deterministic=True)
            observation, reward, terminated, truncated, _ = env.step(action)
            total, over, start = total + reward, terminated or truncated, np.zeros(1, bool)
        found.append(total)
    return found


def plain_ppo(env, seed=3):
    return sb3.PPO(
        "MlpPolicy",
        env,
        n_steps=32,
        batch_size=256,
        n_epochs=20,
        gamma=0.98,
        gae_lambda=0.8,
        learning_rate=lambda left: 1e-3 * left,
        clip_range=lambda left: 0.2 * left,
        seed=seed,
        device="cpu",
    )


def test_ppo_is_a_plain_learn():
    run, other = compare(["sb3:PPO", "sb3-learn:PPO"], arena(), [3]).runs
    for mine, theirs in zip(run.evaluations, other.evaluations, strict=True):
        assert (mine.steps, mine.returns) == (theirs.steps, theirs.returns)
    for parts in (run.parts, other.parts):
        assert all(parts[part] > 0 for part in ("environment", "policy", "update"))
    model = plain_ppo(make_vec_env("CartPole-v1", 8, seed=3))
    assert list(run.evaluations[0].returns) == returns_by_predict(model, "CartPole-v1", 4)
    model.learn(512)
    assert list(run.evaluations[-1].returns) == returns_by_predict(model, "CartPole-v1", 4)
    assert run.evaluations[0].returns != run.evaluations[-1].returns
    assert [e.steps for e in run.evaluations] == [0, 256, 512]


def test_ppo_behind_normalisation_is_a_plain_learn(monkeypatch):
    config = replace(PRESETS["CartPole-v1"], normalize_observations=True, normalize_rewards=True)
    monkeypatch.setitem(PRESETS, "CartPole-v1", config)
    run = compare(["sb3:PPO"], arena(), [3]).runs[0]
    env = VecNormalize(make_vec_env("CartPole-v1", 8, seed=3), gamma=0.98)
    model = plain_ppo(env)
    model.learn(512)
    found = returns_by_predict(model, "CartPole-v1", 4, env.normalize_obs)
    assert list(run.evaluations[-1].returns) == found


def test_dqn_is_a_plain_learn_and_its_seconds_add_up(monkeypatch):
    settings = {"learning_starts": 64, "train_freq": 4, "batch_size": 32}
    monkeypatch.setitem(SETTINGS, ("DQN", "CartPole-v1"), settings)
    run = compare(["sb3:DQN"], arena(), [5]).runs[0]
    env = make_vec_env("CartPole-v1", 1, seed=5)
    model = sb3.DQN("MlpPolicy", env, seed=5, buffer_size=512, device="cpu", **settings)
    model.learn(512)
    assert list(run.evaluations[-1].returns) == returns_by_predict(model, "CartPole-v1", 4)
    assert [e.steps for e in run.evaluations] == [0, 256, 512]
    assert all(run.parts[part] > 0 for part in ("environment", "policy", "update"))
    assert sum(run.parts.values()) == pytest.approx(run.seconds, rel=0.01)


def test_memory_is_kept_through_an_episode_and_between_evaluations():
    env = make_vec_env("CartPole-v1", 2, seed=0)
    model = contrib.RecurrentPPO("MlpLstmPolicy", env, n_steps=8, seed=0, device="cpu")
    player = EpisodeEvaluator(
        lambda: gym.make("CartPole-v1"), [(EVALUATION_SEED + i, None) for i in range(3)]
    )
    policy = SB3Policy(model)
    assert player(policy) == returns_by_predict(model, "CartPole-v1", 3) == player(policy)


@pytest.mark.parametrize("env", [name for name in PRESETS if name != "TextGen-v0"])
def test_the_settings_are_those_of_the_preset(env):
    config = PRESETS[env]
    if env.startswith("LunarLander"):
        pytest.importorskip("Box2D")
    model = SB3Contestant("PPO", arena(env)).make_model(0, 512)
    assert model.n_envs == config.num_envs
    assert model.n_steps * model.n_envs == config.n_steps
    for name in (
        *("batch_size", "n_epochs", "gamma", "gae_lambda", "ent_coef", "vf_coef"),
        *("max_grad_norm", "target_kl", "normalize_advantage", "clip_range_vf"),
    ):
        assert getattr(model, name) == getattr(config, name), name
    for schedule, value, anneal in (
        (model.lr_schedule, config.learning_rate, config.anneal_learning_rate),
        (model.clip_range, config.clip_range, config.anneal_clip_range),
    ):
        assert schedule(1.0) == pytest.approx(value)
        assert schedule(0.25) == pytest.approx(value / 4 if anneal else value)
    normalized = model.get_vec_normalize_env()
    assert (normalized is not None) == config.normalize_observations
    if normalized is not None:
        assert normalized.norm_obs and normalized.norm_reward
        assert normalized.gamma == config.gamma
    assert model.policy.optimizer.defaults["eps"] == 1e-5
    layers = [m for m in model.policy.mlp_extractor.policy_net if hasattr(m, "out_features")]
    assert tuple(layer.out_features for layer in layers) == config.hidden
    model.env.close()


def test_architecture_is_translated():
    kwargs = translate(PPOConfig(hidden=(8, 4), activation="relu"))["policy_kwargs"]
    assert kwargs["net_arch"] == {"pi": [8, 4], "vf": [8, 4]}
    assert kwargs["activation_fn"] == "relu"


@pytest.mark.parametrize("algorithm", ["A2C", "TRPO", "RecurrentPPO", "QRDQN"])
def test_every_kind_of_agent_runs_on_control(algorithm):
    small = arena(total=128, every=64, episodes=1)
    contestant = SB3Contestant(algorithm, small)
    contestant.settings |= {"n_steps": 8} if algorithm != "QRDQN" else {"learning_starts": 16}
    contestant.settings |= {"batch_size": 64} if algorithm == "TRPO" else {}
    contestant.settings |= {"n_epochs": 1} if algorithm == "RecurrentPPO" else {}
    run = contestant.train(0, 128, Watch(small.evaluator(), 64))
    assert [e.steps for e in run.evaluations] == [0, 64, 128] and run.parts["update"] > 0


class Corner(gym.Env):
    """Ten steps; the last choice is right; the observation is a choice too. Others are errors."""

    def __init__(self, start=0, several=False):
        if several:
            self.action_space = gym.spaces.MultiDiscrete([2, 3], start=[start, -start])
            self.right = [start + 1, 2 - start]
        else:
            self.action_space = gym.spaces.Discrete(3, start=start)
            self.right = start + 2
        self.observation_space = gym.spaces.Discrete(4, start=-start)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._seen(), {}

    def _seen(self):
        return int(self.np_random.integers(4)) + int(self.observation_space.start)

    def step(self, action):
        assert self.action_space.contains(action), action
        self.t += 1
        return self._seen(), float(np.all(action == self.right)), self.t == 10, False, {}


@pytest.fixture
def corners():
    ids = ("Corner-v0", "Corner-v5")
    for env_id, start in zip(ids, (0, 5)):
        gym.register(env_id, Corner, kwargs={"start": start})
    yield ids
    for env_id in ids:
        del gym.registry[env_id]


@pytest.mark.parametrize(
    "algorithm, several, by_learn",
    [
        *(("PPO", False, False), ("PPO", True, False), ("PPO", False, True), ("A2C", True, False)),
        *(("DQN", False, False), ("RecurrentPPO", False, False)),
    ],
)
def test_choices_that_do_not_count_from_zero(algorithm, several, by_learn, corners):
    """The agent learns to the bit as in the same environment with choices from 0."""
    found = []
    for env_id in corners:
        small = replace(arena(env_id, total=256, every=128), env_kwargs={"several": several})
        contestant = SB3Contestant(algorithm, small, by_learn)
        contestant._num_envs = contestant.settings["num_envs"] = 1
        contestant.settings |= {"learning_starts": 50} if algorithm == "DQN" else {"n_steps": 64}
        found.append(contestant.train(0, 256, Watch(small.evaluator(), 128)))
    assert len(found[0].evaluations) == 3
    returns = [[e.returns for e in run.evaluations] for run in found]
    assert returns[0] == returns[1]


def test_agents_that_would_count_from_zero_are_refused(corners):
    model = sb3.PPO("MlpPolicy", gym.make(corners[1]), n_steps=8, device="cpu")
    with pytest.raises(ConfigError, match=r"counts choices from 0.*start=5.*CountFromZero"):
        SB3Policy(model)
    with pytest.raises(ConfigError, match=r"counts choices from 0"):
        SB3Trainer(model, 8)
    model = sb3.PPO("MlpPolicy", CountFromZero(gym.make(corners[1])), n_steps=8, device="cpu")
    SB3Trainer(model, 8).train()


def test_a_policy_from_here_plays_its_own_actions_in_sb3(corners):
    from stable_baselines3.common.evaluation import evaluate_policy

    policy = as_sb3_policy(lambda observation, deterministic=False: (np.int64(7), {}))
    assert evaluate_policy(policy, gym.make(corners[1]), 2, warn=False) == (10, 0)


@pytest.mark.parametrize("algorithm", ["SAC", "TD3", "DDPG", "TQC"])
def test_every_kind_of_agent_runs_on_continuous_actions(algorithm):
    small = arena("Pendulum-v1", total=24, every=12, episodes=1)
    contestant = SB3Contestant(algorithm, small)
    contestant.settings |= {"learning_starts": 16, "batch_size": 8}
    run = contestant.train(0, 24, Watch(small.evaluator(), 12))
    assert run.steps == 24 and [e.steps for e in run.evaluations] == [0, 12, 24]
    assert run.parts["update"] > 0


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--agents", "random", "sb3:SAC"], "sb3:SAC takes Box actions"),
        (["--agents", "sb3:DQN", "--env", "Pendulum-v1"], "sb3:DQN takes Discrete actions"),
        (["--agents", "sb3:MaskablePPO"], "action_masks"),
    ],
)
def test_an_agent_that_cannot_act_there_says_so(tmp_path, capsys, argv, says):
    out = tmp_path / "out"
    assert main(["compare", *argv, "--out", str(out)]) == 2
    assert says in capsys.readouterr().err and not out.exists()
