"""Gradients that worker processes compute together."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from tests.algos.shared import random_batch
from textenv.algos import GRPOConfig, grpo
from textenv.algos.lm.scoring.batch import BatchSize
from textenv.algos.rollouts.shared_gradient import SharedGradient
from textenv.algos.rollouts.worker_runner import WorkerRunner
from textenv.algos.trainers.grpo_workers import make_gradient, make_policy
from textenv.algos.training.gradient import LocalGradient
from textenv.algos.training.microbatches import MicroBatch


def test_workers_compute_the_gradient_that_this_process_computes(tmp_path, fresh):
    from functools import partial

    from textenv.algos import RolloutRunner, create_policy, create_strategy
    from textenv.algos.episodes.environments import make_env
    from textenv.algos.lm.models.saving import save_model

    model, tokenizer = fresh
    folder = tmp_path / "model"
    save_model(model, tokenizer, folder)
    policy = create_policy(model, tokenizer, {"max_tokens": 4})
    strategy = create_strategy("grpo", num_generations=2)
    runner = RolloutRunner(make_env("TextGen-v0"), policy, strategy, 4)
    config = GRPOConfig(max_completion_length=4)
    workers = WorkerRunner(
        runner,
        partial(make_env, "TextGen-v0"),
        partial(make_policy, str(folder), None, False, config),
        2,
        partial(make_gradient, config),
    )
    batch = random_batch([3, 9, 5, 2, 8, 8, 1], [0, 0, 0, 1, 1, 2, 2], [4, 6, 2])
    advantages = np.random.default_rng(1).normal(size=7).astype(np.float32)
    whole = BatchSize(7, float(batch.mask.sum()))
    rows = np.array([0, 3, 6]), np.array([1, 2]), np.array([4, 5])
    parts = [MicroBatch(batch.take(some), advantages[some], whole, None) for some in rows]
    shared, local = SharedGradient(workers), LocalGradient(model, grpo.policy_loss)
    try:
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
    finally:
        workers.close()
