"""Training of control's networks: the forward pass, Adam against torch's, rows of transitions."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from gymnasium import spaces

from textenv.algos.control.mlp_policy import MLPPolicy
from textenv.algos.control.mlp_training import (
    Adam,
    forward,
    mean_figures,
    score_actions,
    transition_arrays,
)
from textenv.errors import DataError

import mlx.core as mx  # isort: skip
import math

from tests.algos.control.shared import ACTIONS, BOX, lively
from textenv.algos import Trajectory


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


@pytest.mark.parametrize("kind", ["multi", "box"])
def test_actions_are_scored_as_the_policy_recorded_them(kind):
    """The policy computes in NumPy. It has other weights by then: those that are given count."""
    policy = lively(MLPPolicy(BOX, ACTIONS[kind], (8,), "relu"))
    rows = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
    infos, masks = None, None
    if kind == "multi":
        chosen = np.random.default_rng(2).integers(0, 2, (20, 9), np.int8)
        chosen[:, [0, 2, 5]] = 1  # one of each choice is allowed at least
        allowed = [tuple(np.split(row, [2, 5])) for row in chosen]
        infos, masks = [{"action_mask": mask} for mask in allowed], mx.array(chosen)
    drawn, recorded = policy(rows, infos=infos)
    weights = {name: mx.array(value) for name, value in policy.weights.items()}
    lively(policy, seed=1)
    actions = mx.array(policy.distribution.from_env(recorded.get("unclipped_action", drawn)))
    logprobs, entropies, values = score_actions(weights, policy, mx.array(rows), actions, masks)
    np.testing.assert_allclose(np.array(logprobs), recorded["logprob"], atol=2e-5)
    np.testing.assert_allclose(np.array(values), recorded["value"], atol=2e-5)
    assert entropies.shape == (20,)


def test_another_thread_may_take_the_steps():
    data, found = [np.ones(3, np.float32)], []
    for in_thread in (False, True):
        adam = Adam({"a": np.ones(3)}, lambda w, _, x: ((w["a"] * x).sum(), {}), 0.0)
        if in_thread:
            with ThreadPoolExecutor(1) as pool:
                pool.submit(adam.step, 0.1, data).result()
        else:
            adam.step(0.1, data)
        found.append(adam.weights["a"])
    assert np.array_equal(*found) and found[0] == pytest.approx(0.9, abs=1e-5)


@pytest.mark.parametrize("max_grad_norm", [0.0, 0.5])
def test_steps_are_those_of_torchs_adam(max_grad_norm):
    """On a loss of the weights and of a setting, from step to step, with clipping and without."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    weights = {"a": rng.normal(size=(3, 2)), "b": rng.normal(size=4)}
    weights = {name: value.astype(np.float32) for name, value in weights.items()}

    def loss_fn(weights, settings, x):
        loss = (weights["a"] * weights["a"] * x).sum() + settings[0] * (weights["b"] ** 3).sum()
        return loss, {"loss": loss}

    adam = Adam(weights, loss_fn, max_grad_norm)
    assert adam.size == 10
    theirs = {name: torch.tensor(value, requires_grad=True) for name, value in weights.items()}
    optimizer = torch.optim.Adam(theirs.values(), eps=1e-5)
    before = adam.vectors
    for step in range(5):
        x, setting = rng.normal(size=(3, 2)).astype(np.float32), 0.5 + step
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
        optimizer.zero_grad()
        loss = (theirs["a"] ** 2 * torch.tensor(x)).sum() + setting * (theirs["b"] ** 3).sum()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(theirs.values(), max_grad_norm or math.inf)
        optimizer.step()
        figures = adam.step(0.1 / (1 + step), [x], [setting])
        assert figures["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
        assert figures["grad_norm"].item() == pytest.approx(norm.item(), rel=1e-5)
    for name, value in adam.weights.items():
        np.testing.assert_allclose(value, theirs[name].detach().numpy(), rtol=1e-4, atol=1e-6)
    adam.vectors = before  # takes the steps back
    for name, value in adam.weights.items():
        np.testing.assert_array_equal(value, weights[name])


def trajectory(observations, actions, **more):
    rows = len(actions)
    return Trajectory(
        observations=observations, actions=actions, rewards=[0.0] * rows, infos=[{}] * rows, **more
    )


def test_transitions_in_the_order_of_their_trajectories():
    """Actions counted from 0; a mask is that of the observation that the action answers."""
    policy = MLPPolicy(BOX, ACTIONS["shifted"], (4,))
    first = trajectory([np.full(3, 1.0), np.full(3, 2.0)], [5, 7])
    first.reset_info = {"action_mask": [1, 0, 1]}
    first.infos = [{"action_mask": [0, 1, 1]}, {"action_mask": [1, 0, 0]}]  # of what comes after
    found = transition_arrays([first, trajectory([np.full(3, 3.0)], [6])], policy)
    np.testing.assert_array_equal(found.observations[:, 0], [1, 2, 3])
    np.testing.assert_array_equal(found.actions[:, 0], [0, 2, 1])
    np.testing.assert_array_equal(found.masks, [[1, 0, 1], [0, 1, 1], [1, 1, 1]])
    assert transition_arrays([trajectory([np.zeros(3)], [6])], policy).masks is None


def test_what_was_drawn_counts_where_the_actions_are_that_clipped():
    policy = MLPPolicy(BOX, spaces.Box(-1, 1, (1,)), (4,))
    rows = [np.zeros(3, np.float32)] * 2
    drawn = [np.float32([0.5]), np.float32([3.0])]
    clipped = [np.float32([0.5]), np.float32([1.0])]
    found = transition_arrays([trajectory(rows, clipped, unclipped_actions=drawn)], policy)
    np.testing.assert_array_equal(found.actions[:, 0], [0.5, 3.0])
    stretched = [np.float32([-0.25]), np.float32([0.75])]
    found = transition_arrays([trajectory(rows, stretched, unclipped_actions=drawn)], policy)
    np.testing.assert_array_equal(found.actions[:, 0], [-0.25, 0.75])


@pytest.mark.parametrize(
    ("observations", "actions", "message"),
    [
        ([np.zeros(3), np.zeros(2)], [6, 6], r"observation 1: expected numbers of shape \(3,\)"),
        ([np.zeros(3), None], [6, 6], "observation 1: .*got None"),
        ([np.zeros(6)], [6, 6], "observation 0: "),
        ([np.zeros(3), ["1", "2", "3"]], [6, 6], r"observation 1: .*got \['1'"),
        ([np.zeros(3)], [6, 6], "2 actions and 1 observations"),
        ([], [6, 6], "2 actions and 0 observations"),
        ([np.zeros(3)] * 2, [6, "left"], "action 1: expected integers"),
        ([np.zeros(3)] * 2, [6, 6.5], "action 1: expected integers"),
        ([np.zeros(3)] * 2, [6, [6]], "action 1: expected integers"),
        ([np.zeros(3)] * 2, [5, 8], r"action 1: 8 is not of the space Discrete\(3, start=5\)"),
        ([np.zeros(3)] * 2, [4, 5], "action 0: 4 is not of the space"),
    ],
)
def test_transitions_of_other_spaces_are_refused(observations, actions, message):
    good, bad = trajectory([np.zeros(3)], [5]), trajectory(observations, actions)
    with pytest.raises(DataError, match="^trajectory 1(, |: )" + message):
        transition_arrays([good, bad], MLPPolicy(BOX, ACTIONS["shifted"], (4,)))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"a": np.zeros(2), "b": np.zeros((1, 3))}, r"'b' of observation 0: .*\(3,\)"),
        ({"a": np.zeros(2)}, r"observation 0: expected a dict of \['a', 'b'\]"),
        (np.zeros(5), "observation 0: expected a dict"),
    ],
)
def test_entries_of_other_shapes_are_refused(broken, message):
    parts = {"a": spaces.Box(-1, 1, (2,)), "b": spaces.Box(-1, 1, (3,))}
    policy = MLPPolicy(spaces.Dict(parts), spaces.Discrete(2), (4,))
    good = {"b": np.ones(3), "a": np.zeros(2)}
    found = transition_arrays([trajectory([good], [1])], policy)
    np.testing.assert_array_equal(found.observations, [[0, 0, 1, 1, 1]])
    with pytest.raises(DataError, match=message):
        transition_arrays([trajectory([broken], [1])], policy)


def test_an_action_that_is_not_finite_is_refused():
    policy = MLPPolicy(BOX, spaces.Box(-1, 1, (1,)), (4,))
    with pytest.raises(DataError, match=r"action 1: .*nan"):
        transition_arrays([trajectory([np.zeros(3)] * 2, [[0.5], [float("nan")]])], policy)


def test_figures_are_averaged_and_must_be_finite():
    rows = [
        {"loss": mx.array(1.0), "kl": mx.array(0.5)},
        {"loss": mx.array(4.0), "kl": mx.array(0)},
    ]
    assert mean_figures(rows) == {"loss": 2.5, "kl": 0.25}
    assert mean_figures([]) == {}
    with pytest.raises(FloatingPointError, match="not finite"):
        mean_figures([*rows, {"loss": mx.array(float("inf")), "kl": mx.array(0)}])


@pytest.mark.parametrize("last", [[1.0], [[1.0, 2.0]], "x", {"a": 1}, [0.0] * 6])
def test_a_last_observation_of_another_space_is_refused(last):
    policy = MLPPolicy(BOX, spaces.Discrete(2), (4,))
    first = np.zeros(BOX.shape, np.float32)
    step = {"observations": [first], "actions": [np.int64(0)], "rewards": [0.0], "infos": [{}]}
    good = [Trajectory(**step, final_observation=end) for end in (first, None)]
    assert transition_arrays(good, policy).observations.shape == (2, policy.encoder.size)
    bad = Trajectory(**step, final_observation=last)
    for trajectories in ([bad], [*good, bad]):
        with pytest.raises(DataError, match="its last observation 0"):
            transition_arrays(trajectories, policy)
