"""Gradients that worker processes compute together."""

import importlib.util
from functools import partial

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from tests.algos.rollouts.shared import make_mortal_gradient
from tests.algos.shared import random_batch
from textenv.algos import GRPOConfig, RolloutRunner, create_policy, create_strategy, grpo
from textenv.algos.episodes.environments import make_env
from textenv.algos.lm.models.saving import save_model
from textenv.algos.lm.scoring.batch import BatchSize
from textenv.algos.rollouts.shared_gradient import SharedGradient
from textenv.algos.rollouts.worker_runner import WorkerRunner
from textenv.algos.trainers.grpo_workers import make_gradient, make_policy
from textenv.algos.training.gradient import LocalGradient
from textenv.algos.training.microbatches import MicroBatch

CONFIG = GRPOConfig(max_completion_length=4)


@pytest.fixture
def make_workers(tmp_path, fresh):
    """``make_workers(create_gradient)``: two workers, of the model and the loss of `parts`."""
    model, tokenizer = fresh
    folder = tmp_path / "model"
    save_model(model, tokenizer, folder)
    policy = create_policy(model, tokenizer, {"max_tokens": 4})
    strategy = create_strategy("grpo", num_generations=2)
    made = []

    def make(wrap=lambda create: create, backend="local"):
        runner = RolloutRunner(make_env("TextGen-v0"), policy, strategy, 4)
        workers = WorkerRunner(
            runner,
            partial(make_env, "TextGen-v0"),
            partial(make_policy, str(folder), None, False, CONFIG),
            2,
            wrap(partial(make_gradient, CONFIG)),
            backend=backend,
        )
        made.append(workers)
        return workers

    yield make
    for workers in made:
        workers.close()


@pytest.fixture
def parts():
    """Three microbatches."""
    batch = random_batch([3, 9, 5, 2, 8, 8, 1], [0, 0, 0, 1, 1, 2, 2], [4, 6, 2])
    advantages = np.random.default_rng(1).normal(size=7).astype(np.float32)
    whole = BatchSize(7, float(batch.mask.sum()))
    rows = np.array([0, 3, 6]), np.array([1, 2]), np.array([4, 5])
    return [MicroBatch(batch.take(some), advantages[some], whole, None) for some in rows]


def test_workers_compute_the_gradient_that_this_process_computes(make_workers, parts, fresh):
    model, _ = fresh
    shared, local = SharedGradient(make_workers()), LocalGradient(model, grpo.policy_loss)
    for _ in range(2):
        results, gradient = shared.gradient(parts)
        expected_results, expected = local.gradient(parts)
        assert [r.loss for r in results] == pytest.approx([r.loss for r in expected_results])
        found, wanted = dict(tree_flatten(gradient)), dict(tree_flatten(expected))
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            scale = mx.abs(value).max().item()
            assert mx.abs(found[name] - value).max().item() <= 1e-5 * scale, name
        weight = model.model.layers[0].mlp.down_proj
        weight.weight = 1.5 * weight.weight  # the workers must be told of it


NEEDS_RAY = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray")


@pytest.mark.parametrize("backend", ["local", pytest.param("ray", marks=NEEDS_RAY)])
def test_the_gradient_is_the_same_if_a_worker_dies_on_the_way(
    make_workers, parts, tmp_path, fresh, backend
):
    model, _ = fresh
    flag = str(tmp_path / "flag")
    mortal = make_workers(lambda create: partial(make_mortal_gradient, flag, create), backend)
    healthy = make_workers()
    weight = model.model.layers[0].mlp.down_proj
    weight.weight = 1.5 * weight.weight  # others than those of the folder, which workers begin with
    gradients = [
        dict(tree_flatten(SharedGradient(workers).gradient(parts)[1]))
        for workers in (mortal, healthy, mortal)
    ]
    assert mortal.restarts == 1 and healthy.restarts == 0
    for other in gradients[1:]:
        assert other.keys() == gradients[0].keys()
        assert all(mx.array_equal(other[name], value) for name, value in gradients[0].items())
