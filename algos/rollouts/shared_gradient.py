"""Computes the gradient of a policy-gradient loss in worker processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from textenv.algos.rollouts.worker_runner import WorkerRunner
from textenv.algos.runtime import backend
from textenv.algos.training.microbatches import LossResult, MicroBatch

backend.prepare()

import mlx.core as mx  # noqa: E402
from mlx.utils import tree_unflatten  # noqa: E402


class SharedGradient:
    """Lets worker processes compute a gradient, each for some of the microbatches.

    Args:
        workers: they can compute gradients of the same model and loss.
    """

    def __init__(self, workers: WorkerRunner):
        self._workers = workers
        self.shares = workers.num_workers

    def gradient(self, microbatches: Sequence[MicroBatch]) -> tuple[list[LossResult], Any]:
        """The loss of each microbatch, and the gradient of the sum of the losses."""
        results: list[LossResult] = []
        total: dict[str, mx.array] = {}
        for answer in self._workers.compute_gradient(microbatches):  # in their order
            results += answer.results
            for name, array in answer.gradient.items():
                value = mx.array(array)
                total[name] = total[name] + value if name in total else value
            mx.eval(total)
        return results, tree_unflatten(list(total.items()))
