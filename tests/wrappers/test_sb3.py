"""Stable-Baselines3 agents as policies: what they play, record, load, and how SB3 evaluates."""

import warnings
import zipfile

import gymnasium as gym
import numpy as np
import pytest

from textenv.algos import RolloutRunner
from textenv.errors import (
    ConfigError,
    ConfigTypeError,
    DataError,
    MissingDependencyError,
    MissingFileError,
)
from textenv.wrappers import ActionMask, ChoiceAction, HashedBagOfWords
from textenv.wrappers.sb3 import SB3Policy, as_sb3_policy, load_sb3
from textenv.wrappers.sb3_vec_env import SB3VectorEnv

sb3 = pytest.importorskip("stable_baselines3")
contrib = pytest.importorskip("sb3_contrib")
torch = pytest.importorskip("torch")

from stable_baselines3.common.env_util import make_vec_env  # noqa: E402
from stable_baselines3.common.evaluation import evaluate_policy  # noqa: E402
from stable_baselines3.common.vec_env import DummyVecEnv  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
CARTPOLE, PENDULUM = "CartPole-v1", "Pendulum-v1"
CRITICS = {"PPO": CARTPOLE, "A2C": PENDULUM, "TRPO": CARTPOLE}
OTHERS = {"DQN": CARTPOLE, "QRDQN": CARTPOLE, "TD3": PENDULUM, "DDPG": PENDULUM}
ACTORS = {"SAC": PENDULUM, "TQC": PENDULUM}
AGENTS = CRITICS | OTHERS | ACTORS | {"RecurrentPPO": CARTPOLE, "MaskablePPO": "choices"}


def choices():
    """Answers a and b are valid, or c alone."""
    examples = [{"answer": "b", "choices": ["a", "b"]}, {"answer": "c", "choices": ["c"]}]
    env = gym.make("TextGen-v0", prompts=["x", "y"], examples=examples, reward_fn="exact_match")
    return ActionMask(ChoiceAction(HashedBagOfWords(env, size=8), "choices"))


def make(env, num_envs=None):
    if num_envs is None:
        return choices() if env == "choices" else gym.make(env)
    if env == "choices":
        return gym.vector.SyncVectorEnv([choices] * num_envs)
    return gym.make_vec(env, num_envs)


def agent(name, env=None, policy="MlpPolicy", **settings):
    algorithm = getattr(sb3, name, None) or getattr(contrib, name)
    kwargs = {"net_arch": [8]}
    if name == "RecurrentPPO":
        policy, kwargs["lstm_hidden_size"] = "MlpLstmPolicy", 6
    env = env or make(AGENTS[name])
    settings = {"policy_kwargs": kwargs, "seed": 0, "device": "cpu"} | settings
    return algorithm(policy, env, **settings)


def drawn(trajectory):
    return np.stack(trajectory.unclipped_actions or trajectory.actions)


def tensors(*arrays):
    return [torch.as_tensor(np.asarray(a)) for a in arrays]


def collect(name, num_envs=None, max_steps=60):
    model = agent(name)
    runner = RolloutRunner(make(AGENTS[name], num_envs), SB3Policy(model), max_steps=max_steps)
    return model, runner.collect()


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


@pytest.mark.parametrize("num_envs", [None, 3, "VecEnv"])
def test_masked_actions_are_never_taken(num_envs):
    model = agent("MaskablePPO")
    with torch.no_grad():  # without a mask it would nearly always answer b
        model.policy.action_net.bias[:] = torch.tensor([0.0, 9.0])
    if num_envs == "VecEnv":
        env = SB3VectorEnv(DummyVecEnv([choices] * 3))
    else:
        env = make("choices", num_envs)
    rollout = RolloutRunner(env, SB3Policy(model), max_steps=60).collect()
    seen = set()
    for trajectory in rollout:  # each has one step
        mask = trajectory.reset_info["action_mask"]
        assert trajectory.reset_info["prompt"] == ("x" if mask.all() else "y")
        assert "completion" not in trajectory.reset_info
        seen.add((tuple(map(int, mask)), int(trajectory.actions[0])))
        observations, actions = tensors(trajectory.observations, trajectory.actions)
        with torch.no_grad():
            values, logprobs, _ = model.policy.evaluate_actions(
                observations, actions, torch.as_tensor(mask[None])
            )
        np.testing.assert_allclose(trajectory.logprobs, logprobs, atol=1e-6)
        np.testing.assert_allclose(trajectory.values, values[:, 0], atol=1e-6)
    assert {((1, 1), 1), ((1, 0), 0)} <= seen and ((1, 0), 1) not in seen


class OneOfFive(gym.Env):
    """Ten steps, in each of which one action of five is allowed; counts the others in `wrong`."""

    observation_space = gym.spaces.Box(0, 1, (2,))
    action_space = gym.spaces.Discrete(5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(2, np.float32), {"action_mask": self.action_masks()}

    def action_masks(self):
        return np.arange(5) == self.t * 2 % 5

    def step(self, action):
        self.wrong = getattr(self, "wrong", 0) + (not self.action_masks()[int(action)])
        self.t += 1
        info = {"action_mask": self.action_masks()}
        return np.zeros(2, np.float32), 1.0, self.t == 10, False, info


def trained_by_ppo():
    from textenv.algos import PPOConfig, PPOTrainer

    settings = {"total_timesteps": 64, "n_steps": 64, "batch_size": 32, "n_epochs": 1}
    trainer = PPOTrainer("mlp", env=OneOfFive(), config=PPOConfig(**settings))
    trainer.train()
    return trainer.policy


def saved_and_loaded(tmp_path):
    from textenv.algos import load_policy

    trained_by_ppo().save(tmp_path / "model")
    return load_policy(tmp_path / "model")


@pytest.mark.parametrize("kind", ["ppo", "saved", "MaskablePPO"])
def test_masks_in_evaluations_of_stable_baselines3(kind, tmp_path):
    from sb3_contrib.common.maskable.evaluation import evaluate_policy as evaluate_with_masks

    if kind == "MaskablePPO":
        policy = SB3Policy(agent("MaskablePPO", OneOfFive()))
    else:
        policy = saved_and_loaded(tmp_path) if kind == "saved" else trained_by_ppo()
    env = make_vec_env(OneOfFive, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mean, _ = evaluate_with_masks(as_sb3_policy(policy), env, 6, deterministic=False)
    assert mean == 10 and sum(env.get_attr("wrong")) == 0
    with pytest.warns(UserWarning, match="trained with action masks and is given none"):
        evaluate_policy(as_sb3_policy(policy), env, 2)
    assert sum(env.get_attr("wrong")) > 0


def test_masks_reach_a_policy_of_single_observations():
    def first_allowed(observation, deterministic=False, infos=None):
        return int(np.argmax(infos["action_mask"])), {}

    masks = np.array([[0, 1, 1], [0, 0, 1]])
    actions, _ = as_sb3_policy(first_allowed).predict(np.zeros((2, 4)), action_masks=masks)
    assert actions.tolist() == [1, 2]


def test_infos_without_a_mask_are_an_error():
    policy = SB3Policy(agent("MaskablePPO"))
    with pytest.raises(DataError, match=r"action_mask.*this info has 'task'"):
        policy(np.zeros(8, np.float32), infos={"task": "x"})
    assert policy(np.zeros(8, np.float32))[0] in (0, 1)


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


@pytest.mark.parametrize("name", ["PPO", "DQN", "SAC", "RecurrentPPO"])
def test_an_agent_scores_what_it_scores_without_us(name):
    model = agent(name)
    venv = make_vec_env(AGENTS[name], 2, seed=1)
    expected = evaluate_policy(model, venv, 4, return_episode_rewards=True)
    venv.seed(1)
    again = evaluate_policy(as_sb3_policy(SB3Policy(model)), venv, 4, return_episode_rewards=True)
    np.testing.assert_allclose(again[0], expected[0], rtol=1e-5)
    assert again[1] == expected[1]


# --- saved agents ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AGENTS)
def test_a_saved_agent_is_found_out_and_acts_alike(name, tmp_path):
    model = agent(name)
    model.save(tmp_path / "agent.zip")
    loaded = load_sb3(tmp_path / "agent", trust=True, device="cpu")  # .zip left out
    assert type(loaded) is type(model)
    batch = np.random.default_rng(0).normal(size=(6, *model.observation_space.shape))
    expected, _ = model.predict(batch, deterministic=True)
    np.testing.assert_array_equal(SB3Policy(loaded)(batch, deterministic=True)[0], expected)


class OwnPolicy(sb3.common.policies.ActorCriticPolicy):
    pass


def test_a_policy_of_ones_own_needs_the_algorithm_named(tmp_path):
    path = tmp_path / "own.zip"
    agent("PPO", policy=OwnPolicy).save(path)
    with pytest.raises(ConfigError, match=r"own\.zip does not say.*algorithm="):
        load_sb3(path, trust=True)
    for algorithm in ("PPO", sb3.PPO):
        assert type(load_sb3(path, True, algorithm)) is sb3.PPO
    with pytest.raises(ConfigError, match="did you mean 'PPO'"):
        load_sb3(path, trust=True, algorithm="PPOO")
    with pytest.raises(DataError, match=r"own\.zip cannot be loaded as DQN"):
        load_sb3(path, trust=True, algorithm="DQN")


def test_code_is_not_run_without_trust(tmp_path, monkeypatch):
    path = tmp_path / "agent.zip"
    agent("PPO").save(path)
    monkeypatch.setattr(sb3.PPO, "load", lambda *args, **kwargs: pytest.fail("loaded"))
    for trust in (False, None, "no"):
        with pytest.raises(ConfigError, match=r"agent\.zip.*only for a file that you trust"):
            load_sb3(path, trust)


def test_files_that_are_no_agents_are_named(tmp_path):
    path = tmp_path / "agent.zip"
    with pytest.raises(MissingFileError, match=r"agent\.zip"):
        load_sb3(path, trust=True)
    agent("PPO").save(path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    no_agent = "not an agent"
    for content, reason in [(b"text", no_agent), (whole[:900], no_agent), (flipped, "damaged")]:
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"agent\.zip is {reason}"):
            load_sb3(path, trust=True)
    for name, content in [("x", "{}"), ("data", "["), ("data", "[1]")]:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, content)
        with pytest.raises(DataError, match=r"agent\.zip"):
            load_sb3(path, trust=True)


# --- policies in Stable-Baselines3's evaluation -------------------------------------------------


class Ladder(gym.Env):
    """Step t gives t times the action as its reward; the third step is the last."""

    observation_space = gym.spaces.Box(0, 9, (1,), np.float32)
    action_space = gym.spaces.Discrete(4)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.rung = 1
        return np.float32([self.rung]), {}

    def step(self, action):
        reward, self.rung = float(self.rung * action), self.rung + 1
        return np.float32([self.rung]), reward, self.rung > 3, False, {}


def one_rung(observation, deterministic=False):
    assert observation.shape == (1,)
    return int(observation[0]) if deterministic else 0, {}


def many_rungs(observation, deterministic=False, episode_start=None):
    assert (observation[:, 0] == 1).tolist() == list(episode_start)
    return observation[:, 0].astype(int), {}


many_rungs.batched = True


@pytest.mark.parametrize("policy", [one_rung, many_rungs])
@pytest.mark.parametrize("num_envs", [1, 3])
def test_evaluate_policy_gets_the_return_worked_by_hand(policy, num_envs):
    venv = make_vec_env(Ladder, num_envs)
    result = evaluate_policy(as_sb3_policy(policy), venv, n_eval_episodes=6)
    assert result == (14.0, 0.0)  # 1 x 1 + 2 x 2 + 3 x 3
    if policy is one_rung:
        sampled = evaluate_policy(as_sb3_policy(policy), venv, 2, deterministic=False)
        assert sampled == (0.0, 0.0)


def test_dicts_are_taken_apart_row_by_row():
    seen = []

    def policy(observation, deterministic=False):
        seen.append(observation)
        return [observation["a"], observation["b"][0]], {}

    batch = {"a": np.array([1, 2]), "b": np.array([[3, 0], [4, 0]])}
    actions, state = as_sb3_policy(policy).predict(batch, state="kept")
    assert actions.tolist() == [[1, 3], [2, 4]] and state == "kept"
    assert seen[1]["b"].tolist() == [4, 0]


@pytest.mark.parametrize("answer", ["42", ["4", "2"]])
def test_text_is_refused_with_the_reason(answer):
    def policy(observation, deterministic=False):
        return answer, {}

    with pytest.raises(ConfigTypeError, match="refuse Text spaces"):
        as_sb3_policy(policy).predict(np.zeros((1, 2)))


def test_answers_of_another_shape_are_refused():
    with pytest.raises(ConfigTypeError, match=r"must return \(action, extras\)"):
        as_sb3_policy(lambda observation, deterministic: 0).predict(np.zeros((1, 2)))
    with pytest.raises(ConfigTypeError, match="callable"):
        as_sb3_policy(3)
