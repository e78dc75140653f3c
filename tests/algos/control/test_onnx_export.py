"""Control policies as ONNX: onnxruntime, which knows nothing of this package, acts as we do."""

import json
import sys

import numpy as np
import pytest
from gymnasium import spaces

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from textenv.algos import load_policy  # noqa: E402
from textenv.algos.control.mlp_policy import MLPPolicy  # noqa: E402
from textenv.algos.control.onnx_export import export_onnx  # noqa: E402
from textenv.errors import ConfigTypeError, MissingDependencyError  # noqa: E402

BOX = spaces.Box(-np.inf, np.inf, (4,), np.float32)
DICT = spaces.Dict(
    speed=spaces.Box(-3.0, 3.0, (2,), np.float64), image=spaces.Box(0, 255, (2, 3), np.uint8)
)
ACTIONS = {
    "Discrete": spaces.Discrete(5, start=3),
    "MultiDiscrete": spaces.MultiDiscrete([3, 2, 4]),
    "grid": spaces.MultiDiscrete([[3, 2], [4, 5]], start=[[1, 0], [-2, 7]]),
    "Box": spaces.Box(np.array([-0.2, -np.inf, -0.1]), np.array([0.1, 0.3, np.inf])),
    "matrix": spaces.Box(-0.5, 0.5, (2, 2), np.float64),
}


def make_policy(observation_space, action_space, **settings):
    """A policy far from its initial weights, its statistics far from 0 and 1."""
    policy = MLPPolicy(observation_space, action_space, seed=3, **settings)
    rng = np.random.default_rng(1)
    policy.set_weights(
        {name: value + rng.normal(0, 0.4, value.shape) for name, value in policy.weights.items()}
    )
    policy.update_stats(rng.normal([7.0] * policy.encoder.size, 30.0, (50, policy.encoder.size)))
    policy.reward_scale = 12.5
    return policy


def batch_of(space, count):
    """Observations, by themselves and flat as a reader in another language lays them out."""
    space.seed(5)
    samples = [space.sample() for _ in range(count)]
    if not isinstance(space, spaces.Dict):
        samples = [40 * sample for sample in samples]  # as wide as the statistics
        return samples, np.array(samples, np.float32).reshape(count, -1)
    flat = [np.concatenate([s["image"].ravel(), s["speed"].ravel()]) for s in samples]
    return samples, np.array(flat, np.float32)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("observation_space", [BOX, DICT], ids=["Box", "Dict"])
@pytest.mark.parametrize("action_space", ACTIONS.values(), ids=ACTIONS.keys())
def test_onnxruntime_acts_as_we_do(tmp_path, observation_space, action_space, normalize):
    policy = make_policy(observation_space, action_space, normalize_observations=normalize)
    session = onnxruntime.InferenceSession(export_onnx(policy, tmp_path / "policy.onnx"))
    box = isinstance(action_space, spaces.Box)
    names = ["action", "mean", "value", "log_std"] if box else ["action", "logits", "value"]
    assert [output.name for output in session.get_outputs()] == names
    for count in (1, 7):  # the size of a batch is free
        samples, rows = batch_of(observation_space, count)
        if not normalize:
            rows = rows / 100  # else tanh is 1 everywhere
            samples = [
                {"image": r[:6].reshape(2, 3), "speed": r[6:]} if len(r) == 8 else r for r in rows
            ]
        found = dict(zip(names, session.run(None, {"observation": rows})))
        outputs, _ = policy.forward(rows)
        np.testing.assert_allclose(found[names[1]], outputs, atol=1e-5)
        np.testing.assert_allclose(found["value"], policy.values(samples), rtol=1e-5, atol=1e-4)
        ours = np.array([policy(sample, deterministic=True)[0] for sample in samples])
        assert found["action"].shape == (count, *action_space.shape)
        if box:
            np.testing.assert_allclose(found["action"], ours, atol=1e-5)
            np.testing.assert_array_equal(found["log_std"], policy.weights["log_std"])
        else:
            assert found["action"].dtype == np.int64
            np.testing.assert_array_equal(found["action"], ours)
            assert all(action_space.contains(a.astype(action_space.dtype)) for a in ours)


def test_the_bounds_of_a_box_bind():
    """The test above would pass without any clipping if nothing were out of bounds."""
    policy = make_policy(BOX, ACTIONS["Box"], normalize_observations=True)
    _, rows = batch_of(BOX, 7)
    means, _ = policy.forward(rows)
    assert (means < ACTIONS["Box"].low).any() and (means > ACTIONS["Box"].high).any()


def test_normalised_observations_are_clipped(tmp_path):
    policy = make_policy(BOX, spaces.Discrete(2), normalize_observations=True)
    session = onnxruntime.InferenceSession(export_onnx(policy, tmp_path / "policy.onnx"))
    far = policy.stats.mean + 10 * np.sqrt(policy.stats.var)
    rows = np.array([far, far * 1000], np.float32)
    logits = session.run(["logits"], {"observation": rows})[0]
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-4)


def test_relu_and_other_layers(tmp_path):
    settings = {"hidden": (16, 8, 4), "activation": "relu", "normalize_observations": True}
    policy = make_policy(BOX, spaces.Discrete(3), **settings)
    policy.save(tmp_path / "model")
    loaded = load_policy(tmp_path / "model")
    session = onnxruntime.InferenceSession(export_onnx(loaded, tmp_path / "policy.onnx"))
    _, rows = batch_of(BOX, 5)
    logits = session.run(["logits"], {"observation": rows})[0]
    np.testing.assert_allclose(logits, policy.forward(rows)[0], atol=1e-5)


def test_the_file_says_what_goes_in_and_out(tmp_path):
    policy = make_policy(DICT, ACTIONS["MultiDiscrete"])
    path = tmp_path / "deep" / "policy.onnx"
    for _ in range(2):  # the second time in the place of the first
        assert export_onnx(policy, path) == path
    assert [p.name for p in path.parent.iterdir()] == ["policy.onnx"]
    metadata = {p.key: json.loads(p.value) for p in onnx.load(path).metadata_props}
    assert metadata["action_space"]["nvec"] == [3, 2, 4]
    assert set(metadata["observation_space"]["spaces"]) == {"image", "speed"}
    assert metadata["observation_layout"] == [
        {"key": "image", "start": 0, "size": 6, "shape": [2, 3]},
        {"key": "speed", "start": 6, "size": 2, "shape": [2]},
    ]


def test_what_cannot_be_exported(tmp_path, monkeypatch):
    with pytest.raises(ConfigTypeError, match=r"control policy.*function"):
        export_onnx(lambda observation: 0, tmp_path / "policy.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingDependencyError, match=r"textenv\[export\]"):
        export_onnx(make_policy(BOX, spaces.Discrete(2)), tmp_path / "policy.onnx")
    assert not list(tmp_path.iterdir())
