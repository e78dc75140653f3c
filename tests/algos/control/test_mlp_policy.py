"""The networks of control: NumPy's forward against MLX's, and distributions against SB3's."""

import json

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from tests.algos.control.shared import ACTIONS, BOX, OBSERVATIONS, lively
from textenv.algos.control import mlp_policy
from textenv.algos.control.mlp_policy import MLPPolicy, load_policy, stack_masks
from textenv.errors import ConfigError, DataError, MissingFileError


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
    "changes",
    [
        {"hidden": [10**7]},
        {"hidden": [6, 10**7]},
        {"hidden": []},
        {"hidden": "6"},
        {"hidden": 6},
        {"action_space": {"type": "Discrete", "n": 10**8, "start": 0, "dtype": "int64"}},
        {"observation_space": {"type": "Discrete", "n": 10**8, "start": 0, "dtype": "int64"}},
        {"activation": ["tanh"]},
    ],
)
def test_a_policy_is_made_no_larger_than_its_file(tmp_path, monkeypatch, changes):
    MLPPolicy(BOX, spaces.Discrete(4), (6,)).save(tmp_path / "policy")
    path = tmp_path / "policy" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    made = []
    monkeypatch.setattr(mlp_policy, "_orthogonal", lambda rng, n, m, gain: made.append(n * m))
    with pytest.raises(DataError, match="does not hold a control policy that loads"):
        load_policy(tmp_path / "policy")
    assert made == []


@pytest.mark.parametrize(
    ("damage", "error", "said"),
    [
        (lambda f: (f / "config.json").unlink(), MissingFileError, "config.json is missing"),
        (lambda f: (f / "model.safetensors").unlink(), MissingFileError, "model.safetensors"),
        (lambda f: (f / "config.json").write_text("{"), DataError, "is not JSON"),
        (lambda f: (f / "config.json").write_text("[" * 5000), DataError, "is not JSON"),
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
    space = spaces.Discrete(3)
    mask = stack_masks(infos, 3, space)
    np.testing.assert_array_equal(mask, [[1, 0, 1], [1, 1, 1], [0, 1, 1]])
    assert stack_masks([{}, {}], 2, space) is None and stack_masks(None, 2, space) is None
    with pytest.raises(DataError, match="component 0 it allows none"):
        stack_masks([{"action_mask": [0, 0, 0]}], 1, space)
    with pytest.raises(DataError, match="action_mask must have 3 entries"):
        stack_masks([{"action_mask": [1, 1]}], 1, space)


def test_masks_of_several_choices():
    space = spaces.MultiDiscrete([3, 2], start=[5, -1])
    policy = MLPPolicy(BOX, space, (4,))
    tuple_form = np.array([0, 1, 1], np.int8), np.array([1, 0], np.int8)  # Gymnasium's
    for mask in (tuple_form, [0, 1, 1, 1, 0]):
        infos = [{"action_mask": mask}] * 60
        actions, _ = policy(np.zeros((60, 3), np.float32), infos=infos)
        assert {*map(tuple, actions.tolist())} == {(6, -1), (7, -1)}
    with pytest.raises(DataError, match="component 1 it allows none"):
        policy(np.zeros(3, np.float32), infos={"action_mask": [0, 1, 1, 0, 0]})


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
