"""The weights that played best come back, to the bit."""

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest

from tests.algos.rollouts.health.shared import rollout
from tests.algos.shared import same_weights, weights_of
from textenv.algos.storage.checkpoints.store import read_checkpoint, write_checkpoint
from textenv.algos.training.last_good import LastGood, how_good
from textenv.algos.training.optimizer import OptimizerStep


def test_how_good_a_rollout_was():
    assert how_good(rollout([[1, 0], [1, 1]])) == 0.75
    assert how_good(rollout([[2.0, -1.0]], judged=False)) == 0.5
    assert how_good(rollout([[None, None]], judged=False)) == -np.inf


@pytest.mark.parametrize("own", [False, True])
def test_compiled_updates_do_not_touch_the_weights_that_are_held(own):
    model = nn.Linear(3, 2)
    mx.eval(model.parameters())
    optimizer = optim.AdamW(0.1)
    if own:  # a class of the user's is not compiled
        optimizer = type("Own", (optim.AdamW,), {"__module__": "own"})(0.1)
    step = OptimizerStep(model, optimizer, 0.0)
    held = LastGood(model)
    seen = []
    for number, value in enumerate([0, 1, 0, 0]):
        seen.append(weights_of(model))
        held.offer(number, rollout([[value, 0]]))
        step({"weight": mx.ones((2, 3)), "bias": mx.ones((2,))})
    assert not same_weights(seen[1], weights_of(model))
    assert held.go_back(4) == (
        "stopped at a collapse after 4 steps; the model is that of step 1, which played best"
    )
    assert same_weights(seen[1], weights_of(model)) and (held.step, held.value) == (1, 0.5)
    step({"weight": mx.ones((2, 3)), "bias": mx.ones((2,))})  # it can be trained further
    assert not same_weights(seen[1], weights_of(model))


def test_it_goes_on_from_a_checkpoint(tmp_path):
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    held, again = LastGood(model), LastGood(other)
    again.load_state(held.state())
    assert (again.step, again.value) == (None, -np.inf)  # nothing was played yet
    held.offer(2, rollout([[1, 0]]))
    best = weights_of(model)
    path = write_checkpoint(tmp_path, 3, held.state(), {})
    again.load_state(read_checkpoint(path).state)
    again.offer(4, rollout([[0, 0]]))
    assert "that of step 2" in again.go_back(5)
    assert same_weights(weights_of(other), best)


def test_it_goes_on_from_a_checkpoint_by_evaluations(tmp_path):
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    held, again = LastGood(model), LastGood(other)
    held.judge(2, [(2, 0.4)])
    path = write_checkpoint(tmp_path, 3, held.state(), {})
    again.load_state(read_checkpoint(path).state)
    again.offer(4, rollout([[1, 1]]))  # rollouts count no longer
    again.judge(4, [(2, 0.4), (4, 0.3)])
    assert (again.step, again.value) == (2, 0.4)
    assert same_weights(again.state().arrays, weights_of(model))
