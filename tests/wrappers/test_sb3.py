"""Stable-Baselines3 agents as policies: what they play and record."""

import gymnasium as gym
import numpy as np
import pytest

from tests.wrappers.sb3_agents import (
    ACTORS,
    AGENTS,
    CARTPOLE,
    CRITICS,
    OTHERS,
    PENDULUM,
    agent,
    collect,
    drawn,
    tensors,
)
from textenv.algos import RolloutRunner
from textenv.errors import ConfigTypeError, MissingDependencyError
from textenv.wrappers.sb3 import SB3Policy
from textenv.wrappers.sb3_vec_env import SB3VectorEnv

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("num_envs", [None, 3])
@pytest.mark.parametrize("name", CRITICS)
def test_values_and_log_probabilities_are_the_agents(name, num_envs):
    model, rollout = collect(name, num_envs)
    assert rollout.num_transitions == 60
    for trajectory in rollout:
        observations = torch.as_tensor(np.stack(trajectory.observations))
        with torch.no_grad():
            values, logprobs, _ = model.policy.evaluate_actions(
                observations, torch.as_tensor(drawn(trajectory))
            )
        np.testing.assert_allclose(trajectory.values, values[:, 0], atol=1e-5)
        np.testing.assert_allclose(trajectory.logprobs, logprobs, atol=1e-5)


@pytest.mark.parametrize("num_envs", [None, 3])
@pytest.mark.parametrize("name", OTHERS)
def test_what_an_agent_does_not_have_is_none(name, num_envs):
    model, rollout = collect(name, num_envs)
    assert rollout.num_transitions == 60
    for trajectory in rollout:
        assert trajectory.values is trajectory.logprobs is trajectory.unclipped_actions is None
        assert trajectory.last_value is None
    assert SB3Policy(model)(rollout.trajectories[0].observations[0])[1] == {}


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("name", ACTORS)
def test_an_actor_that_squashes_has_log_probabilities_and_no_values(name, deterministic):
    model = agent(name)
    observations = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    actions, extras = SB3Policy(model)(observations, deterministic=deterministic)
    assert set(extras) == {"logprob", "unclipped_action"}
    squashed = torch.as_tensor(extras["unclipped_action"])
    np.testing.assert_allclose(actions, 2 * squashed, rtol=1e-6)  # Pendulum's torque, in [-2, 2]
    with torch.no_grad():
        mean, log_std, _ = model.actor.get_action_dist_params(torch.as_tensor(observations))
    gaussian = torch.distributions.Normal(mean, log_std.exp()).log_prob(torch.atanh(squashed))
    by_hand = (gaussian - torch.log(1 - squashed**2)).sum(1)  # d tanh(x)/dx = 1 - tanh(x)^2
    np.testing.assert_allclose(extras["logprob"], by_hand, atol=1e-4)


@pytest.mark.parametrize("name", AGENTS)
def test_deterministic_and_sampled_actions_are_those_of_predict(name):
    model = agent(name)
    policy = SB3Policy(model)
    rng = np.random.default_rng(0)
    single = rng.normal(size=model.observation_space.shape).astype(np.float32)
    batch = rng.normal(size=(4, *single.shape)).astype(np.float32)
    for observation in (single, batch):
        for deterministic in (True, False):
            model.set_random_seed(1)
            expected, _ = model.predict(observation, deterministic=deterministic)
            model.set_random_seed(1)
            action, extras = policy(observation, deterministic=deterministic)
            np.testing.assert_array_equal(action, expected)
            count = () if observation is single else (4,)
            assert all(
                np.shape(extras[key]) == count for key in ("value", "logprob") if key in extras
            )
    assert model.action_space.contains(policy(single)[0])


def test_a_box_is_clipped_for_the_environment_alone():
    model = agent("PPO", gym.make(PENDULUM), policy_kwargs={"net_arch": [8], "log_std_init": 2.0})
    rollout = RolloutRunner(gym.make(PENDULUM), SB3Policy(model), max_steps=30).collect()
    (trajectory,) = rollout
    assert np.abs(drawn(trajectory)).max() > 2  # the bounds of the action space
    np.testing.assert_array_equal(np.stack(trajectory.actions), np.clip(drawn(trajectory), -2, 2))


def test_the_last_value_is_of_what_came_last_unless_the_episode_terminated():
    model, rollout = collect("PPO", 3)
    going = [t for t in rollout if not t.terminated]
    assert going and len(going) < len(rollout)
    for trajectory in rollout:
        if trajectory.terminated:
            assert trajectory.last_value is None
        else:
            observation = torch.as_tensor(trajectory.final_observation[None])
            assert trajectory.last_value == model.policy.predict_values(observation).item()


def test_recurrent_memory_goes_on_until_an_episode_starts():
    model = agent("RecurrentPPO")
    env = gym.vector.SyncVectorEnv(
        [lambda: gym.make(CARTPOLE)] * 2, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP
    )
    runner = RolloutRunner(env, SB3Policy(model), max_steps=50)
    rollouts = [runner.collect(), runner.collect()]
    zeros = torch.zeros(1, 1, 6)
    from sb3_contrib.common.recurrent.type_aliases import RNNStates

    for i in range(2):
        lane = [t for rollout in rollouts for t in rollout if t.env_index == i]
        starts, goes_on = [], False
        for trajectory in lane:
            starts += [not goes_on] + [False] * (len(trajectory) - 1)
            goes_on = not (trajectory.terminated or trajectory.truncated)
        assert sum(starts) > 1 and starts[25] is False  # one continues in the second rollout
        observations, actions = tensors(
            [o for t in lane for o in t.observations], [a for t in lane for a in t.actions]
        )
        with torch.no_grad():
            values, logprobs, _ = model.policy.evaluate_actions(
                observations,
                actions,
                RNNStates((zeros, zeros), (zeros, zeros)),
                torch.tensor(starts, dtype=torch.float32),
            )
        np.testing.assert_allclose([v for t in lane for v in t.values], values[:, 0], atol=1e-5)
        np.testing.assert_allclose([x for t in lane for x in t.logprobs], logprobs, atol=1e-5)
        assert all(t.last_value is None for t in lane)  # the critic would need the memory


def test_recurrent_memory_is_empty_where_nobody_says_what_starts():
    policy = SB3Policy(agent("RecurrentPPO"))
    observation = np.ones(4, np.float32)
    first = policy(observation, episode_start=True)[1]["value"]
    second = policy(observation, episode_start=False)[1]["value"]
    assert policy(observation)[1]["value"] == first != second


class Picture(gym.Env):
    """A picture with its channels last, whose single shade of grey changes at each step."""

    observation_space = gym.spaces.Box(0, 255, (36, 40, 1), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.grey = 0
        return self.picture(), {}

    def picture(self):
        return np.full((36, 40, 1), self.grey, np.uint8)

    def step(self, action):
        self.grey += 50
        return self.picture(), 1.0, self.grey >= 200, False, {}


def test_pictures_are_transposed():
    model = agent("PPO", Picture(), "CnnPolicy", policy_kwargs={}, n_steps=8, batch_size=8)
    assert model.observation_space.shape == (1, 36, 40)
    envs = [
        Picture(),
        gym.vector.SyncVectorEnv([Picture] * 2),
        SB3VectorEnv(model.get_env()),  # transposed already
    ]
    for env in envs:
        rollout = RolloutRunner(env, SB3Policy(model), max_steps=4).collect()
        for trajectory in rollout:
            greys = [float(o.flat[0]) for o in trajectory.observations]
            pictures = torch.zeros(len(greys), 1, 36, 40) + torch.tensor(greys).view(-1, 1, 1, 1)
            with torch.no_grad():
                values = model.policy.predict_values(pictures)
            np.testing.assert_allclose(trajectory.values, values[:, 0], atol=1e-5)


def test_dicts_are_batched():
    space = gym.spaces.Dict(
        a=gym.spaces.Box(-1, 1, (2,)), b=gym.spaces.Box(-1, 1, (3,)), c=gym.spaces.Discrete(4)
    )

    def wrap():
        return gym.wrappers.TransformObservation(
            gym.make(CARTPOLE), lambda o: {"a": o[:2], "b": o[1:], "c": np.int64(3)}, space
        )

    model = agent("PPO", wrap(), "MultiInputPolicy")
    for env in (wrap(), gym.vector.SyncVectorEnv([wrap] * 2)):
        rollout = RolloutRunner(env, SB3Policy(model), max_steps=20).collect()
        for trajectory in rollout:
            batch = {
                key: torch.as_tensor(np.stack([o[key] for o in trajectory.observations]))
                for key in space
            }
            with torch.no_grad():
                values = model.policy.predict_values(batch)
            np.testing.assert_allclose(trajectory.values, values[:, 0], atol=1e-5)


def test_it_acts_in_evaluation_mode():
    model = agent("PPO")
    model.policy.set_training_mode(True)
    action, extras = SB3Policy(model)(np.zeros(4, np.float32))
    assert not model.policy.training
    assert isinstance(action, np.integer) and isinstance(extras["value"], np.floating)


@pytest.mark.parametrize("model", [None, "PPO", lambda observation: 0])
def test_what_is_no_model_is_refused(model):
    with pytest.raises(ConfigTypeError, match="drives a Stable-Baselines3 algorithm"):
        SB3Policy(model)


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "stable_baselines3.common.base_class", None)
    with pytest.raises(MissingDependencyError, match=r"pip install -e '\.\[sb3\]'"):
        SB3Policy(None)
