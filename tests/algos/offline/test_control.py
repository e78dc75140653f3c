"""Offline training of control: which episodes, which weights, which targets, and that it helps."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from tests.algos.offline.shared import SPACES, part, three_rollouts
from textenv.algos import (
    Buffer,
    OfflineConfig,
    OfflineTrainer,
    RolloutRunner,
    Trajectory,
    load_policy,
)
from textenv.algos.episodes.trajectory import RolloutSource
from textenv.algos.evaluation.measure import episode_returns
from textenv.algos.offline.control import advantage_weights
from textenv.algos.offline.data import common_source
from textenv.algos.storage.source import describe_source
from textenv.errors import ConfigError, ConfigTypeError, DataError


def test_filtered_bc_trains_on_exactly_these():
    config = OfflineConfig("filtered_bc", share=0.4, holdout=0.0, normalize_observations=False)
    trainer = OfflineTrainer(three_rollouts(), config)
    assert trainer.data_return == 6.0
    assert trainer._data.observations[:, 0].tolist() == [200, 201, 202, 203, 50]
    assert trainer._data.actions[:, 0].tolist() == [0, 1, 0, 0, 0]


def test_no_whole_episode_no_filter():
    rollout = Buffer([part(0, 0, [1, 1], seed=0)], SPACES)
    with pytest.raises(DataError, match=r"none of the 1 episodes.*whole"):
        OfflineTrainer([rollout], OfflineConfig("filtered_bc"))
    assert OfflineTrainer([rollout], OfflineConfig("bc")).data_return is None


def test_advantage_weights_by_hand():
    # mean 1, deviation sqrt(2): standardised -.7071, -.7071, 1.4142
    found = advantage_weights(np.array([0.0, 0.0, 3.0]), temperature=0.5)
    np.testing.assert_allclose(found, np.exp([-1.41421, -1.41421, 2.82843]), rtol=1e-4)
    found = advantage_weights(np.array([0.0, 0.0, 3.0]), temperature=0.5, max_weight=10)
    np.testing.assert_allclose(found, [0.24312, 0.24312, 10], rtol=1e-4)
    # no scale and no level of the rewards changes them
    moved = advantage_weights(np.array([-500.0, -500.0, 2500.0]), temperature=0.5)
    np.testing.assert_allclose(moved, np.exp([-1.41421, -1.41421, 2.82843]), rtol=1e-4)
    assert advantage_weights(np.ones(3)).tolist() == [1, 1, 1]
    assert advantage_weights(np.array([0.0, 1e9]), temperature=1e-6, max_weight=20).max() <= 20.001


@pytest.mark.parametrize("end", ["terminated", "truncated", "", "in two"])
def test_the_critics_targets(end):
    """Gamma .5, lambda 1 on rewards 1, 2, 3: returns 2.75, 3.5, 3, and what comes after."""
    if end == "in two":
        rollouts = [
            Buffer([part(0, 0, [1, 2], seed=1)], SPACES),
            Buffer([part(0, 2, [3], "terminated", first_step=2)], SPACES),
        ]
    else:
        rollouts = [Buffer([part(0, 0, [1, 2, 3], end, seed=1)], SPACES)]
    trainer = OfflineTrainer(rollouts, OfflineConfig("bc", holdout=0.0))
    policy = trainer.policy
    assert policy.reward_scale == pytest.approx(np.std([2.75, 3.5, 3]))
    zeros = {name: np.zeros_like(value) for name, value in policy.weights.items()}
    policy.set_weights(zeros | {"critic.bias": np.array([8 / policy.reward_scale])})
    advantages, returns, values = trainer._targets()
    np.testing.assert_allclose(values, [8, 8, 8], rtol=1e-6)
    after = 8 if end in ("truncated", "") else 0
    expected = np.array([2.75, 3.5, 3]) + after * np.array([0.125, 0.25, 0.5])
    np.testing.assert_allclose(returns, expected, rtol=1e-6)
    np.testing.assert_allclose(advantages, expected - 8, rtol=1e-6)


def test_masked_actions_cost_no_likelihood():
    """Where a mask leaves nothing but the action taken, it was certain: the loss is 0."""

    def only(action):
        return {"action_mask": np.eye(2, dtype=np.int8)[action]}

    t = part(0, 0, [1, 1, 1], "terminated", seed=0)
    t.reset_info, t.infos = only(t.actions[0]), [only(t.actions[1]), only(t.actions[2]), {}]
    trainer = OfflineTrainer([Buffer([t], SPACES)], OfflineConfig("bc", epochs=2, holdout=0.0))
    assert trainer.train()[-1]["train/policy_loss"] == pytest.approx(0, abs=1e-6)


def test_a_box_that_never_changes_has_a_bounded_likelihood():
    source = RolloutSource(
        observation_space=SPACES.observation_space,
        action_space={"type": "Box", "dtype": "float32", "shape": [2], "low": -1, "high": 1},
    )
    t = part(0, 0, [1.0] * 64, "terminated", seed=0)
    t.actions = [np.array([0.25, 0.5 * (i % 2)], np.float32) for i in range(64)]
    trainer = OfflineTrainer([Buffer([t], source)], OfflineConfig("bc", epochs=300, holdout=0.0))
    history = trainer.train()
    log_std = trainer.policy.weights["log_std"]
    assert np.isfinite(history[-1]["train/policy_loss"])
    np.testing.assert_array_less(np.log([1e-3, 0.25]) - 5.01, log_std)
    action, _ = trainer.policy(np.array([3.0], np.float32), deterministic=True)
    assert action[0] == pytest.approx(0.25, abs=0.02)


# --- every method improves on its data ---------------------------------------------------------


class Aim(gym.Env):
    """Eight targets one after another; the reward is how near the action comes."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Box(-2, 2, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._left = 8
        return self._see(), {}

    def step(self, action):
        reward = -float((action[0] - self._seen[0] + 0.5 * self._seen[1]) ** 2)
        self._left -= 1
        return self._see(), reward, self._left == 0, False, {}

    def _see(self):
        self._seen = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self._seen


def clumsy(rng):
    """An agent that often does what is right; its noise is in what it did, not in what it says."""

    def cart(observations):
        right = observations[:, 2] + 0.5 * observations[:, 3] > 0
        at_random = rng.random(len(right)) < 0.7
        return np.where(at_random, rng.integers(2, size=len(right)), right), {}

    def aim(observations):
        return np.clip(rng.normal(observations[:, :1], 0.7), -2, 2).astype(np.float32), {}

    return {"CartPole-v1": cart, Aim: aim}


@pytest.fixture(scope="module", params=["CartPole-v1", Aim])
def data(request):
    """(environment, four rollouts of a clumsy agent): it has no values and no log-probabilities."""
    made = (
        gym.vector.SyncVectorEnv([Aim] * 8, autoreset_mode=AutoresetMode.SAME_STEP)
        if request.param == Aim
        else gym.make_vec(
            *(request.param, 8, "sync"),
            vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
        )
    )
    policy = clumsy(np.random.default_rng(4))[request.param]
    runner = RolloutRunner(made, policy, max_steps=1024, seed=1)
    rollouts = []
    for _ in range(4):
        rollouts.append(runner.collect())
        rollouts[-1].source = describe_source(runner)
    single = Aim() if request.param == Aim else gym.make(request.param)
    return single, rollouts


@pytest.mark.parametrize("method", ["bc", "filtered_bc", "awr"])
def test_every_method_improves_on_its_data(data, method, tmp_path):
    env, rollouts = data
    config = OfflineConfig(method, epochs=15, critic_epochs=10, learning_rate=3e-3, batch_size=128)
    trainer = OfflineTrainer(rollouts, config)
    history = trainer.train()
    trainer.save(tmp_path / "model")
    returns = episode_returns(load_policy(tmp_path / "model"), env, 20, seed=10**6)
    worse = trainer.data_return
    assert worse == pytest.approx(
        np.mean([e.trajectory.total_reward for e in trainer.episodes if e.whole])
    )
    if env.spec is None:  # Aim: the data's mean is about -8 * (.7 ** 2 + .25 / 3)
        assert worse == pytest.approx(-4.6, abs=0.3)
        # An exact copy without the noise: -8 * .25 / 3 = -.67; the other two see what pays.
        assert returns.mean() > {"bc": -1.0, "filtered_bc": -0.5, "awr": -0.5}[method]
    else:
        assert worse < 70 and returns.mean() > 250
    assert len(history) == trainer.passes == (25 if method == "awr" else 15)
    assert history[-1]["train/explained_variance"] > 0.2 or env.spec is None


def test_what_was_drawn_counts_where_the_actions_are_that_clipped():
    source = RolloutSource(
        observation_space=SPACES.observation_space,
        action_space={"type": "Box", "dtype": "float32", "shape": [1], "low": -1, "high": 1},
    )
    drawn = [np.array([x], np.float32) for x in (-3.0, 0.5, 2.0)]
    t = part(0, 0, [1, 1, 1], "terminated", seed=0, unclipped_actions=drawn)
    for actions, expected in (([-1, 0.5, 1], [-3, 0.5, 2]), ([-0.9, 0.1, 0.7], [-0.9, 0.1, 0.7])):
        t.actions = [np.array([x], np.float32) for x in actions]
        trainer = OfflineTrainer([Buffer([t], source)], OfflineConfig("bc", holdout=0.0))
        np.testing.assert_allclose(trainer._data.actions[:, 0], expected)


def test_awr_is_better_than_what_it_copies():
    """Two actions, one always worth 1 more: bc keeps their frequencies, awr does not."""
    rng = np.random.default_rng(0)
    actions = (rng.random(2000) < 0.3).astype(np.int64)  # the better one is the rarer
    t = part(0, 0, np.zeros(2000), "terminated", seed=0)
    t.observations = [np.zeros(1, np.float32)] * 2000
    t.actions, t.rewards = list(actions), [float(a) for a in actions]
    shares = {}
    for method in ("bc", "awr"):
        config = OfflineConfig(
            *(method, 20, 20), gamma=0.0, learning_rate=1e-2, holdout=0.0, temperature=0.5
        )
        trainer = OfflineTrainer([Buffer([t], SPACES)], config)
        trainer.train()
        logits, _ = trainer.policy.forward(np.zeros((1, 1), np.float32))
        shares[method] = 1 / (1 + np.exp(logits[0, 0] - logits[0, 1]))
    assert shares["bc"] == pytest.approx(actions.mean(), abs=0.03)
    # V is the mean p; the standardised advantages are sqrt((1-p)/p) and -sqrt(p/(1-p))
    p = actions.mean()
    up, down = np.exp(((1 - p) / p) ** 0.5 / 0.5), np.exp(-((p / (1 - p)) ** 0.5) / 0.5)
    assert shares["awr"] == pytest.approx(p * up / (p * up + (1 - p) * down), abs=0.03)


def test_the_same_seed_gives_the_same_policy_and_a_stop_leaves_whole_passes():
    config = OfflineConfig("bc", epochs=6)
    stopped = []

    def stop(metrics):
        stopped.append(trainers[1].policy.fingerprint())
        if metrics["epoch"] == 3:
            raise KeyboardInterrupt

    trainers = [OfflineTrainer(three_rollouts(), config, on_step=on) for on in (None, stop)]
    trainers[0].train()
    with pytest.raises(KeyboardInterrupt):
        trainers[1].train()
    assert trainers[1].policy.fingerprint() == stopped[-1] and len(set(stopped)) == 3
    trainers[1].train()  # goes on
    assert trainers[1].policy.fingerprint() == trainers[0].policy.fingerprint()
    assert [m["epoch"] for m in trainers[1].history] == [1, 2, 3, 4, 5, 6]


def test_what_is_held_out_is_not_trained_on():
    rollout = Buffer([part(None, 100 * i, [1, 1, 1], "terminated") for i in range(10)], SPACES)
    trainer = OfflineTrainer([rollout], OfflineConfig("bc", holdout=0.3, epochs=1))
    kept, held = trainer._data.observations[:, 0], trainer._held.observations[:, 0]
    assert len(kept) == 21 and len(held) == 9
    assert sorted([*kept, *held]) == sorted(100 * i + j for i in range(10) for j in range(3))
    assert "holdout/logprob" in trainer.train()[0]


@pytest.mark.parametrize(("agent", "env_id"), [("DQN", "CartPole-v1"), ("SAC", "Pendulum-v1")])
def test_rollouts_of_agents_of_stable_baselines3(agent, env_id):
    """An untrained agent of another library, copied: the copy acts as it does."""
    sb3 = pytest.importorskip("stable_baselines3")
    from textenv.wrappers.sb3 import SB3Policy

    env = gym.make(env_id)
    model = getattr(sb3, agent)("MlpPolicy", env, seed=0, device="cpu")
    act = SB3Policy(model)
    runner = RolloutRunner(env, lambda o: act(o, deterministic=True), max_steps=512, seed=1)
    rollout = runner.collect()
    rollout.source = describe_source(runner)
    trainer = OfflineTrainer([rollout], OfflineConfig("bc", epochs=60, holdout=0.0))
    trainer.train()
    seen = [o for t in rollout for o in t.observations]
    theirs = np.array([a for t in rollout for a in t.actions], np.float64).reshape(512, -1)
    ours = trainer.policy(np.array(seen), deterministic=True)[0].reshape(512, -1)
    if agent == "DQN":
        assert (ours == theirs).mean() > 0.97
    else:
        # What SAC drew lies in [-1, 1], and was stretched to [-2, 2].
        assert trainer._data.actions == pytest.approx(theirs)
        assert np.abs(ours - theirs).mean() < 0.2 * theirs.std()


# --- what is refused ---------------------------------------------------------------------------


def test_rollouts_of_another_environment(data):
    env, rollouts = data
    other = gym.make("Acrobot-v1")
    with pytest.raises(DataError, match="Acrobot-v1"):
        OfflineTrainer(rollouts, env=other)
    foreign = RolloutRunner(other, lambda o: (0, {}), max_steps=8).collect()
    foreign.source = describe_source(other)
    with pytest.raises(DataError, match=r"different environments.*Acrobot-v1"):
        OfflineTrainer([*rollouts, foreign])
    assert OfflineTrainer(rollouts, env=env).policy.encoder.space == env.observation_space


def test_rollouts_that_do_not_say_their_spaces():
    silent = [Buffer(rollout.trajectories) for rollout in three_rollouts()]
    with pytest.raises(DataError, match="pass the environment"):
        OfflineTrainer(silent)
    with pytest.raises(DataError, match="nothing to train on"):
        common_source([Buffer()])
    text = Buffer([Trajectory(["a"], ["b"], [1.0], [{}], prompt="a", terminated=True)])
    with pytest.raises(DataError, match="OfflineTextTrainer"):
        OfflineTrainer([text])


def test_actions_of_another_space():
    t = part(0, 0, [1, 1], "terminated", seed=0)
    t.actions = [np.array([0.1, 0.2, 0.3])] * 2
    with pytest.raises(DataError, match="rollout 0, trajectory 0, action 0"):
        OfflineTrainer([Buffer([t], SPACES)])


@pytest.mark.parametrize("method", ["awr", "filtered_bc", "bc"])
def test_an_episode_that_is_not_over_needs_its_last_observation(method):
    ends = [part(i, i, [1, 1], "terminated", seed=i) for i in range(3)]
    for end in ends:
        end.final_observation = None  # nothing comes after it
    cut = part(3, 3, [1, 1], None, seed=3)
    config = OfflineConfig(method, epochs=1, critic_epochs=1, share=1.0)
    metrics = OfflineTrainer([Buffer([*ends, cut], SPACES)], config).train()
    assert all(np.isfinite(list(row.values())).all() for row in metrics)
    cut.final_observation = None
    with pytest.raises(DataError, match="rollout 1, trajectory 3 has no last observation"):
        OfflineTrainer([Buffer(ends, SPACES), Buffer([*ends, cut], SPACES)], config)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"method": "dqn"}, ConfigError, "unknown method 'dqn'"),
        ({"share": 0.0}, ConfigError, "share must be above 0"),
        ({"share": 1.5}, ConfigError, "share"),
        ({"temperature": 0.0}, ConfigError, "temperature"),
        ({"holdout": 1.0}, ConfigError, "holdout"),
        ({"max_weight": 0.5}, ConfigError, "max_weight"),
        ({"epochs": 0}, ConfigError, "epochs"),
        ({"epochs": 2.5}, ConfigTypeError, "epochs must be int"),
        ({"gamma": 1.1}, ConfigError, "gamma"),
    ],
)
def test_a_config_checks_itself(settings, error, message):
    with pytest.raises(error, match=message):
        OfflineConfig(**settings)
