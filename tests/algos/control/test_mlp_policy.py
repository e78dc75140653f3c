"""The networks of control: NumPy's forward against MLX's, and distributions against SB3's."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from textenv.algos.control.distributions import make_distribution
from textenv.algos.control.mlp_policy import MLPPolicy, load_policy, stack_masks
from textenv.algos.control.running_stats import RunningStats
from textenv.algos.ppo_control import forward
from textenv.errors import ConfigError, DataError, MissingFileError

import mlx.core as mx  # isort: skip

BOX = spaces.Box(-1, 1, (3,))
ACTIONS = {
    "discrete": spaces.Discrete(4),
    "shifted": spaces.Discrete(3, start=5),
    "multi": spaces.MultiDiscrete([2, 3, 4]),
    "box": spaces.Box(-0.5, np.array([0.5, 2.0], np.float32)),
    "matrix": spaces.Box(-1, 1, (2, 2)),
}
OBSERVATIONS = {
    "box": BOX,
    "image": spaces.Box(0, 255, (2, 3), np.uint8),
    "dict": spaces.Dict({"b": spaces.Box(-1, 1, (2,)), "a": spaces.Box(-1, 1, (1, 2))}),
}


def lively(policy, seed=0):
    """The same policy with weights of a size that matters everywhere."""
    rng = np.random.default_rng(seed)
    policy.set_weights(
        {k: rng.normal(size=v.shape).astype(np.float32) * 0.5 for k, v in policy.weights.items()}
    )
    return policy


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("hidden", [(8,), (16, 16), (5, 7, 3)])
def test_numpy_and_mlx_compute_the_same(activation, hidden):
    policy = lively(MLPPolicy(BOX, ACTIONS["multi"], hidden, activation))
    rows = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
    weights = {name: mx.array(value) for name, value in policy.weights.items()}
    outputs, values = forward(weights, mx.array(rows), activation)
    ours = policy.forward(rows)
    np.testing.assert_allclose(ours[0], np.array(outputs), atol=2e-5)
    np.testing.assert_allclose(ours[1], np.array(values), atol=2e-5)


def test_the_forward_pass_by_hand():
    policy = MLPPolicy(spaces.Box(-1, 1, (1,)), spaces.Discrete(2), (1,), "relu")
    policy.set_weights(
        {
            "hidden.0.weight": [[[2.0]], [[-1.0]]],  # actor, critic
            "hidden.0.bias": [[[1.0]], [[0.5]]],
            "actor.weight": [[1.0, -1.0]],
            "actor.bias": [0.0, 0.5],
            "critic.weight": [[4.0]],
            "critic.bias": [0.25],
        }
    )
    outputs, values = policy.forward(np.array([[1.0], [-1.0]], np.float32))
    np.testing.assert_allclose(outputs, [[3, -2.5], [0, 0.5]])
    np.testing.assert_allclose(values, [0.25, 4 * 1.5 + 0.25])


@pytest.mark.parametrize("kind", ACTIONS)
def test_drawn_logprobs_are_those_of_the_loss(kind):
    space = ACTIONS[kind]
    distribution = make_distribution(space)
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(50, distribution.outputs)).astype(np.float32)
    log_std = None
    if distribution.learns_std:
        log_std = rng.normal(size=distribution.outputs).astype(np.float32)
    drawn, logprob = distribution.draw(outputs, log_std, rng, False)
    scored, _ = distribution.score(
        mx.array(outputs), None if log_std is None else mx.array(log_std), mx.array(drawn), None
    )
    np.testing.assert_allclose(logprob, np.array(scored), atol=1e-5)
    actions = distribution.to_env(drawn)
    assert all(space.contains(action) for action in actions)
    if not distribution.learns_std:
        np.testing.assert_array_equal(distribution.from_env(actions), drawn)


@pytest.mark.parametrize("kind", ["discrete", "multi", "box"])
def test_distributions_are_those_of_sb3(kind):
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("stable_baselines3.common.distributions")
    space = ACTIONS[kind]
    ours = make_distribution(space)
    rng = np.random.default_rng(3)
    outputs = rng.normal(size=(30, ours.outputs)).astype(np.float32)
    other = theirs.make_proba_distribution(space)
    log_std = None
    if kind == "box":
        log_std = rng.normal(size=ours.outputs).astype(np.float32)
        other = other.proba_distribution(torch.tensor(outputs), torch.tensor(log_std))
    else:
        other = other.proba_distribution(torch.tensor(outputs))
    drawn, _ = ours.draw(outputs, log_std, rng, False)
    logprob, entropy = ours.score(
        mx.array(outputs), None if log_std is None else mx.array(log_std), mx.array(drawn), None
    )
    chosen = torch.tensor(drawn[:, 0] if kind == "discrete" else drawn)
    np.testing.assert_allclose(np.array(logprob), other.log_prob(chosen).numpy(), atol=1e-5)
    np.testing.assert_allclose(np.array(entropy), other.entropy().numpy(), atol=1e-5)
    best, _ = ours.draw(outputs, log_std, rng, True)
    np.testing.assert_allclose(best.reshape(chosen.shape), other.mode().numpy())


def test_draws_have_the_probabilities_that_they_report():
    distribution = make_distribution(spaces.Discrete(3))
    logits = np.log(np.array([[0.2, 0.3, 0.5]], np.float32)).repeat(20_000, axis=0)
    drawn, logprob = distribution.draw(logits, None, np.random.default_rng(0), False)
    shares = np.bincount(drawn[:, 0]) / len(drawn)
    np.testing.assert_allclose(shares, [0.2, 0.3, 0.5], atol=0.015)  # 4 standard errors
    np.testing.assert_allclose(np.exp(logprob), np.array([0.2, 0.3, 0.5])[drawn[:, 0]], rtol=1e-5)


def test_a_masked_action_is_never_drawn_and_the_rest_is_renormalised():
    distribution = make_distribution(spaces.MultiDiscrete([2, 3]))
    outputs = np.zeros((1000, 5), np.float32)
    mask = np.array([[True, False, False, True, True]]).repeat(1000, axis=0)
    drawn, logprob = distribution.draw(outputs, None, np.random.default_rng(0), False, mask)
    assert set(drawn[:, 0]) == {0} and set(drawn[:, 1]) == {1, 2}
    np.testing.assert_allclose(np.exp(logprob), 0.5, rtol=1e-5)
    scored, entropy = distribution.score(mx.array(outputs), None, mx.array(drawn), mx.array(mask))
    np.testing.assert_allclose(np.array(scored), logprob, atol=1e-5)
    np.testing.assert_allclose(np.array(entropy), np.log(2), atol=1e-5)


@pytest.mark.parametrize("observations", OBSERVATIONS)
@pytest.mark.parametrize("actions", ACTIONS)
def test_one_observation_or_a_batch(observations, actions):
    space = OBSERVATIONS[observations]
    space.seed(0)
    policy = lively(MLPPolicy(space, ACTIONS[actions], (8, 8)))
    rows = [space.sample() for _ in range(5)]
    if isinstance(space, spaces.Dict):
        batch = {key: np.stack([row[key] for row in rows]) for key in space}
    else:
        batch = np.stack(rows)
    together, extras = policy(batch, deterministic=True)
    for i, row in enumerate(rows):
        action, alone = policy(row, deterministic=True)
        assert ACTIONS[actions].contains(action)
        np.testing.assert_allclose(action, together[i], rtol=1e-4)
        np.testing.assert_allclose(alone["value"], extras["value"][i], rtol=1e-4)
        np.testing.assert_allclose(alone["logprob"], extras["logprob"][i], rtol=1e-4)
    np.testing.assert_allclose(policy.values(rows), extras["value"], rtol=1e-4)


def test_what_was_drawn_is_kept_where_the_box_cuts_it_off():
    space = spaces.Box(-0.1, 0.1, (2,))
    policy = MLPPolicy(BOX, space, (4,), seed=1)
    action, extras = policy(np.zeros((200, 3), np.float32))
    drawn = extras["unclipped_action"]
    assert np.abs(drawn).max() > 0.5
    np.testing.assert_array_equal(action, np.clip(drawn, -0.1, 0.1))


def test_initial_weights_are_orthogonal():
    policy = MLPPolicy(spaces.Box(-1, 1, (6,)), spaces.Discrete(3), (16, 16), seed=2)
    for i in range(2):
        first, second = (policy.weights[f"hidden.{n}.weight"][i] for n in (0, 1))
        np.testing.assert_allclose(first @ first.T, 2 * np.eye(6), atol=1e-5)
        np.testing.assert_allclose(second @ second.T, 2 * np.eye(16), atol=1e-5)
    actor, critic = policy.weights["actor.weight"], policy.weights["critic.weight"]
    np.testing.assert_allclose(actor.T @ actor, 1e-4 * np.eye(3), atol=1e-8)
    np.testing.assert_allclose(critic.T @ critic, [[1]], atol=1e-5)
    assert not any(value.any() for name, value in policy.weights.items() if name.endswith("bias"))
    first, second = policy.weights["hidden.0.weight"]
    assert not np.allclose(first, second)


def test_seeds_reproduce_and_differ():
    rows = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)

    def drawn(seed):
        return MLPPolicy(BOX, spaces.Discrete(50), (4,), seed=seed)(rows)[0].tolist()

    assert drawn(1) == drawn(1) != drawn(2)


@pytest.mark.parametrize("sizes", [[5], [1, 1, 1], [2, 0, 30, 7]])
def test_running_statistics_are_those_of_all_rows(sizes):
    rng = np.random.default_rng(0)
    parts = [rng.normal(3, 5, size=(n, 2)) for n in sizes]
    stats = RunningStats(2)
    for part in parts:
        stats.update(part)
    rows = np.concatenate(parts)
    np.testing.assert_allclose(stats.mean, rows.mean(axis=0))
    np.testing.assert_allclose(stats.var, rows.var(axis=0), atol=1e-12)


def test_normalised_observations():
    policy = MLPPolicy(BOX, spaces.Discrete(2), normalize_observations=True)
    rows = np.random.default_rng(0).normal([0, 5, -100], [1, 3, 50], (500, 3)).astype(np.float32)
    np.testing.assert_allclose(
        policy.normalize(rows), np.clip(rows, -10, 10), rtol=1e-6
    )  # none yet
    policy.update_stats(rows)
    np.testing.assert_allclose(policy.normalize(rows).mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(policy.normalize(rows).std(axis=0), 1, atol=1e-4)
    assert policy.normalize(np.full((1, 3), 1e6, np.float32)).max() == 10


@pytest.mark.parametrize("observations", OBSERVATIONS)
@pytest.mark.parametrize("actions", ACTIONS)
def test_a_saved_policy_comes_back_whole(tmp_path, observations, actions):
    space = OBSERVATIONS[observations]
    policy = lively(MLPPolicy(space, ACTIONS[actions], (6, 4), "relu", True, seed=3))
    rows = policy.encoder.rows([space.sample() for _ in range(7)])
    policy.update_stats(rows * 3 + 1)
    policy.reward_scale = 12.5
    policy.save(tmp_path / "policy")
    again = load_policy(tmp_path / "policy")
    assert again.fingerprint() == policy.fingerprint()
    observation = space.sample()
    action, extras = policy(observation, deterministic=True)
    same, others = again(observation, deterministic=True)
    np.testing.assert_array_equal(action, same)
    np.testing.assert_array_equal(extras["value"], others["value"])
    policy.reward_scale = 1.0
    assert policy.fingerprint() != again.fingerprint()


def test_torch_reads_the_file_as_layers(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    policy = lively(MLPPolicy(BOX, spaces.Discrete(4), (8, 5)))
    policy.save(tmp_path / "policy")
    tensors = load_file(tmp_path / "policy" / "model.safetensors")
    rows = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    for network, expected in zip(("actor", "critic"), policy.forward(rows)):
        x = torch.tensor(rows)
        for layer in ("hidden.0", "hidden.1", "output"):
            name = f"{network}.{layer}"
            x = torch.nn.functional.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])
            x = x if layer == "output" else torch.tanh(x)
        np.testing.assert_allclose(x.numpy().reshape(expected.shape), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("damage", "error", "said"),
    [
        (lambda f: (f / "config.json").unlink(), MissingFileError, "config.json is missing"),
        (lambda f: (f / "model.safetensors").unlink(), MissingFileError, "model.safetensors"),
        (lambda f: (f / "config.json").write_text("{"), DataError, "is not JSON"),
        (lambda f: (f / "config.json").write_text("{}"), DataError, "not that of a control"),
        (
            lambda f: (f / "config.json").write_text(
                (f / "config.json").read_text().replace('"version": 1', '"version": 9')
            ),
            DataError,
            "has version 9",
        ),
        (lambda f: (f / "model.safetensors").write_bytes(b"123"), DataError, "does not hold"),
        (
            lambda f: (f / "config.json").write_text(
                (f / "config.json").read_text().replace(" 6\n", " 7\n")
            ),
            DataError,
            "shape",
        ),
    ],
)
def test_a_broken_folder(tmp_path, damage, error, said):
    folder = tmp_path / "policy"
    MLPPolicy(BOX, spaces.Discrete(4), (6,)).save(folder)
    damage(folder)
    with pytest.raises(error, match=said) as caught:
        load_policy(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("observation", "action", "said"),
    [
        (spaces.Text(5), spaces.Discrete(2), "observations must be Box.*HashedBagOfWords"),
        (spaces.Discrete(5), spaces.Discrete(2), r"got Discrete\(5\).*FlattenObservation"),
        (spaces.Tuple([BOX]), spaces.Discrete(2), "FlattenObservation"),
        (spaces.Dict({"a": spaces.Dict({"b": BOX})}), spaces.Discrete(2), "FlattenObservation"),
        (BOX, spaces.Text(5), "actions must be Discrete.*ChoiceAction"),
        (BOX, spaces.MultiBinary(3), r"got MultiBinary\(3\).*TransformAction"),
        (BOX, spaces.Box(0, 9, (2,), np.int64), "actions must be Discrete"),
    ],
)
def test_spaces_that_networks_cannot_take(observation, action, said):
    with pytest.raises(ConfigError, match=said):
        MLPPolicy(observation, action)


def test_masks_of_a_batch():
    infos = [{"action_mask": np.array([1, 0, 1])}, {}, {"action_mask": [0, 1, 1]}]
    mask = stack_masks(infos, 3, 3)
    np.testing.assert_array_equal(mask, [[1, 0, 1], [1, 1, 1], [0, 1, 1]])
    assert stack_masks([{}, {}], 2, 3) is None and stack_masks(None, 2, 3) is None
    with pytest.raises(DataError, match="action_mask must have 3 entries"):
        stack_masks([{"action_mask": [0, 0, 0]}], 1, 3)
    with pytest.raises(DataError, match="action_mask must have 3 entries"):
        stack_masks([{"action_mask": [1, 1]}], 1, 3)


def test_a_plain_loop():
    env = gym.make("CartPole-v1")
    policy = MLPPolicy(env.observation_space, env.action_space, seed=0)
    observation, info = env.reset(seed=0)
    done, steps = False, 0
    while not done:
        action, extras = policy(observation, infos=info)
        observation, _, terminated, truncated, info = env.step(action)
        done, steps = terminated or truncated, steps + 1
        assert extras.keys() == {"logprob", "value"}
    assert steps >= 8
